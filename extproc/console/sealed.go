package console

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"

	"github.com/go-json-experiment/json"
)

// sealer makes what a browser keeps for us: nobody reads it, and nobody else makes one. What is sealed for one cookie is nothing in
// another. The key is this process's.
type sealer struct{ aead cipher.AEAD }

func newSealer() (sealer, error) {
	key := make([]byte, 32)
	rand.Read(key) // never fails: crypto/rand ends the program instead
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{aead}, err
}

func (s sealer) seal(cookie string, v any) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, []byte(cookie))), nil
}

var errNotSealed = errors.New("what this browser remembers is not ours, or from before a restart")

func (s sealer) open(cookie, sealed string, v any) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil {
		return errNotSealed
	}
	plain, err := s.aead.Open(nil, nil, b, []byte(cookie))
	if err != nil {
		return errNotSealed
	}
	return json.Unmarshal(plain, v)
}
