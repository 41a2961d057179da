package evidence

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/countersign/countersign/extproc/datafile"
)

// keyRing has the gateway's secret keys. Each is a file of mode 0600 in <data>/keys.
type keyRing struct {
	signer   note.Signer
	verifier string // x/mod/sumdb/note verifier key of signer
	digest   []byte
	redact   []byte
}

// PublicKeyFile returns the path of the public half of a data directory's evidence key.
func PublicKeyFile(data string) string { return filepath.Join(data, "keys", "evidence.pub") }

// PublicKey reads the public half of a data directory's evidence key.
func PublicKey(data string) (string, error) {
	path := PublicKeyFile(data)
	if err := datafile.CheckDirectory(filepath.Dir(path)); err != nil {
		return "", fmt.Errorf("read the public key: %w", err)
	}
	text, err := datafile.ReadFile(path, 64<<10)
	if err != nil {
		return "", fmt.Errorf("read the public key: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// loadKeys reads the keys. It makes those that are missing only if the journal is fresh: with a new key, new checkpoints, digests
// and tokens could not be compared with old ones.
func loadKeys(fsys datafile.FS, data, node string, fresh bool) (*keyRing, error) {
	dir := filepath.Join(data, "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the key directory: %w", err)
	}
	if err := datafile.CheckDirectory(dir); err != nil {
		return nil, fmt.Errorf("open the key directory: %w", err)
	}
	k := &keyRing{}
	secret, err := loadKey(fsys, filepath.Join(dir, "evidence.key"), fresh, func() (string, error) {
		secret, _, err := note.GenerateKey(rand.Reader, "countersign/"+node)
		return secret, err
	})
	if err != nil {
		return nil, err
	}
	if k.signer, err = note.NewSigner(secret); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, "evidence.key"), err)
	}
	if k.verifier, err = verifierOf(secret); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, "evidence.key"), err)
	}
	if err := k.publish(fsys, data); err != nil {
		return nil, err
	}
	for name, into := range map[string]*[]byte{"digest.key": &k.digest, "redact.key": &k.redact} {
		path := filepath.Join(dir, name)
		text, err := loadKey(fsys, path, fresh, func() (string, error) {
			return hex.EncodeToString(randomBytes(32)), nil
		})
		if err != nil {
			return nil, err
		}
		if *into, err = hex.DecodeString(text); err != nil || len(*into) != 32 {
			return nil, fmt.Errorf("read %s: it does not hold 32 bytes in hex", path)
		}
	}
	return k, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand ends the program instead
	return b
}

func loadKey(fsys datafile.FS, path string, fresh bool, generate func() (string, error)) (string, error) {
	text, err := datafile.ReadFile(path, 64<<10)
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read a key: %w", err)
	}
	if !fresh {
		return "", fmt.Errorf("%s is missing, and the journal beside it has records: put the key back from a backup, or move the whole data directory away (its records stay verifiable with evidence.pub) and start with an empty one", path)
	}
	key, err := generate()
	if err != nil {
		return "", fmt.Errorf("make %s: %w", path, err)
	}
	if err := datafile.Replace(fsys, path, []byte(key+"\n")); err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return key, nil
}

// publish writes evidence.pub, or checks that the one that is there belongs to the key.
func (k *keyRing) publish(fsys datafile.FS, data string) error {
	path := PublicKeyFile(data)
	text, err := datafile.ReadFile(path, 64<<10)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := datafile.Replace(fsys, path, []byte(k.verifier+"\n")); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("read the public key: %w", err)
	case strings.TrimSpace(string(text)) != k.verifier:
		return fmt.Errorf("%s does not belong to evidence.key beside it: remove the wrong one of the two (evidence.pub is made anew)", path)
	}
	return nil
}

// verifierOf derives the verifier key of a signer key, "PRIVATE+KEY+<name>+<hash>+<base64 of algorithm and seed>".
func verifierOf(secret string) (string, error) {
	parts := strings.SplitN(strings.TrimPrefix(secret, "PRIVATE+KEY+"), "+", 3)
	if len(parts) != 3 {
		return "", errors.New("it is not a note signer key")
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return "", errors.New("it is not an Ed25519 note signer key")
	}
	private := ed25519.NewKeyFromSeed(raw[1:])
	public := ed25519.PublicKey(private[ed25519.SeedSize:]) // an Ed25519 private key is the seed and then the public key
	return note.NewEd25519VerifierKey(parts[0], public)
}

// checkNode refuses a name that cannot be part of a note's key name.
func checkNode(node string) error {
	if node == "" || len(node) > 128 || strings.ContainsFunc(node, func(r rune) bool {
		return r <= ' ' || r == '+' || r == '\u007F' || r == '\uFFFD' || r > 0x7F
	}) {
		return fmt.Errorf("node %.140q must be 1 to 128 ASCII characters without spaces and without +", node)
	}
	return nil
}
