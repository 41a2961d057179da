package identity

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/countersign/countersign/extproc/keyfile"
	"github.com/countersign/countersign/extproc/loopback"
)

// algorithms are those that can be configured: asymmetric ones only.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

const (
	maxSkew     = time.Minute
	maxDocument = 1 << 20 // of discovery and of a key set
)

// issuer is a checked Issuer with its defaults, and its keys.
type issuer struct {
	Issuer
	name    string // Issuer.Issuer
	address *url.URL
	domain  string // the trust domain, where Issuer is a SPIFFE id
	keys    *keyring
	oidc    *oidc.Config
}

func newIssuer(life context.Context, c Issuer, o Options) (*issuer, error) {
	i := &issuer{Issuer: c, name: c.Issuer}
	var errs []error
	for _, check := range []func() error{i.readAddress, i.readAlgorithms, i.readLists, i.readDurations, i.readKind} {
		if err := check(); err != nil {
			errs = append(errs, err)
		}
	}
	i.Types = typesOf(c)
	i.GroupsClaim = cmp.Or(c.GroupsClaim, "groups")
	i.RolesClaim = cmp.Or(c.RolesClaim, "roles")

	// Audience and times are checked by us: go-oidc takes one audience, no skew on exp, and five minutes on nbf.
	i.oidc = &oidc.Config{SupportedSigningAlgs: i.Algorithms, SkipClientIDCheck: true, SkipExpiryCheck: true, SkipIssuerCheck: i.domain != ""}
	i.keys = &keyring{
		maxAge: i.KeysMaxAge, refresh: i.Refresh, now: o.Now, life: life,
		verifying: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), gap: refetchGap, spare: spareFetches,
		changed: func(e keyEvent) {
			o.Log.Warn("identity: "+e.Kind, slog.String("issuer", c.Issuer), slog.String("detail", e.Text))
			o.Alarm(e.Kind, fmt.Sprintf("issuer %q: %s", c.Issuer, e.Text))
		},
	}
	if c.Kind == "spiffe" {
		i.keys.use = "jwt-svid"
	}
	if err := i.readSource(o); err != nil {
		errs = append(errs, err)
	}
	for n, err := range errs {
		errs[n] = fmt.Errorf("issuer %q: %w", c.Issuer, err)
	}
	return i, errors.Join(errs...)
}

func (i *issuer) readAddress() error {
	u, err := url.Parse(i.name)
	i.address = cmp.Or(u, &url.URL{})
	switch {
	case i.name == "":
		return errors.New("has no issuer: it is the `iss` of its tokens")
	case err != nil:
		return errors.New("is not a URL")
	case u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.ContainsAny(i.name, "#{} "):
		return errors.New("is not the URL of an issuer: it has a host, perhaps a path, and nothing else")
	case u.Scheme == "spiffe":
		if i.Kind != "spiffe" || i.JWKSFile == "" || strings.Trim(u.Path, "/") != "" {
			return errors.New("a SPIFFE trust domain needs kind spiffe, a jwks_file, and no path")
		}
		i.domain = u.Host
		return nil
	}
	return i.allowed(u)
}

// allowed reports whether u may be asked for something on behalf of the issuer: https always; plain http only where the
// issuer itself is plain http, and then only on loopback unless the configuration says insecure.
func (i *issuer) allowed(u *url.URL) error {
	switch {
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http" || i.address.Scheme != "http":
		return fmt.Errorf("%s is not an https URL", excerpt(u.Redacted()))
	case i.Insecure || loopback.Host(u.Hostname()):
		return nil
	default:
		return fmt.Errorf("%s is plain http and not on loopback; use https, or say insecure: true", excerpt(u.Redacted()))
	}
}

func (i *issuer) readAlgorithms() error {
	if len(i.Algorithms) == 0 {
		i.Algorithms = []string{"RS256", "ES256"}
	}
	i.Algorithms = slices.Clone(i.Algorithms)
	for _, a := range i.Algorithms {
		switch {
		case slices.Contains(algorithms, a):
		case strings.EqualFold(a, "none"):
			return errors.New("algorithm \"none\" would accept tokens that nobody signed")
		case strings.HasPrefix(a, "HS"):
			return fmt.Errorf("algorithm %q needs a shared secret, so whoever can verify could also sign", a)
		default:
			return fmt.Errorf("algorithm %q is not one of %s", a, strings.Join(algorithms, ", "))
		}
	}
	return nil
}

func (i *issuer) readLists() error {
	if len(i.Audience) == 0 {
		return errors.New("has no audience: a token made for any other service would be accepted")
	}
	for _, l := range []struct {
		key  string
		list []string
	}{{"audience", i.Audience}, {"tenants", i.Tenants}, {"subjects", i.Subjects}, {"revoked", i.Revoked}} {
		if slices.Contains(l.list, "") {
			return fmt.Errorf("%s has an empty entry", l.key)
		}
	}
	return nil
}

func (i *issuer) readDurations() error {
	for _, d := range []struct {
		key      string
		value    *time.Duration
		standard time.Duration
	}{
		{"skew", &i.Skew, maxSkew},
		{"max_lifetime", &i.MaxLifetime, 24 * time.Hour},
		{"keys_max_age", &i.KeysMaxAge, 24 * time.Hour},
		{"refresh", &i.Refresh, 0},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s is %v, which is negative", d.key, *d.value)
		}
		*d.value = cmp.Or(*d.value, d.standard)
	}
	if i.Skew > maxSkew {
		return fmt.Errorf("skew is %v, and %v is the most", i.Skew, maxSkew)
	}
	if i.Refresh == 0 {
		i.Refresh = min(10*time.Minute, i.KeysMaxAge/3)
	}
	if i.Refresh >= i.KeysMaxAge {
		return fmt.Errorf("refresh (%v) is not less than keys_max_age (%v)", i.Refresh, i.KeysMaxAge)
	}
	return nil
}

func (i *issuer) readKind() error {
	if len(i.Clients) > 0 && i.Kind != "" && i.Kind != "entra" {
		return fmt.Errorf("kind %q has no people", i.Kind)
	}
	switch i.Kind {
	case "", "kubernetes":
	case "entra":
		// The issuers that are not one tenant's: anybody with an account could be in them.
		for segment := range strings.SplitSeq(i.address.Path, "/") {
			if slices.Contains([]string{"common", "organizations", "consumers"}, segment) {
				return fmt.Errorf("%q is every tenant's; name one tenant's issuer", segment)
			}
		}
	case "github":
		if len(i.Tenants) == 0 && len(i.Subjects) == 0 {
			return errors.New("signs for every repository on GitHub: set tenants (repository_owner_id) or subjects")
		}
	case "spiffe":
		if i.domain == "" && len(i.Tenants) == 0 {
			return errors.New("set tenants to the trust domains that it signs for")
		}
	default:
		return fmt.Errorf("kind %q is not one of \"\", entra, kubernetes, github, spiffe", i.Kind)
	}
	return nil
}

func typesOf(c Issuer) []string {
	types := c.Types
	switch {
	case len(types) > 0:
	case c.Kind == "spiffe":
		types = []string{"JWT", "JOSE", ""}
	default:
		types = []string{"at+jwt", "JWT", ""}
	}
	normal := make([]string, len(types))
	for n, t := range types {
		normal[n] = mediaType(t)
	}
	return normal
}

// mediaType brings the values of `typ` that are the same to one spelling (RFC 7515, section 4.1.9).
func mediaType(s string) string {
	return strings.TrimPrefix(strings.ToLower(s), "application/")
}

// readSource sets where keys come from.
func (i *issuer) readSource(o Options) error {
	if i.JWKSFile != "" {
		return i.readFile()
	}
	client, err := i.client(o.HTTPClient)
	if err != nil {
		return err
	}
	i.keys.fetch = func(ctx context.Context) ([]byte, error) { return i.discover(ctx, client) }
	return nil
}

func (i *issuer) readFile() error {
	i.keys.fetch = func(context.Context) ([]byte, error) { return os.ReadFile(i.JWKSFile) }
	i.keys.attempted = i.keys.now()
	b, err := i.keys.fetch(context.Background())
	if err == nil {
		_, _, err = readKeys(b, i.keys.use)
	}
	if err != nil {
		return fmt.Errorf("jwks_file %q: %w", i.JWKSFile, err)
	}
	i.keys.install(b, nil)
	return nil
}

// client follows no redirect to where the issuer could not have sent us itself, reads no more than maxDocument and
// sends nothing but GET.
func (i *issuer) client(given *http.Client) (*http.Client, error) {
	var base http.RoundTripper
	if given != nil {
		base = cmp.Or(given.Transport, http.DefaultTransport)
	} else {
		standard, ok := http.DefaultTransport.(*http.Transport)
		if !ok {
			return nil, fmt.Errorf("the default HTTP transport of this program is a %T", http.DefaultTransport)
		}
		t := standard.Clone()
		roots, err := keyfile.RootsOrSystem(i.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
		t.ResponseHeaderTimeout = fetchTimeout
		t.MaxResponseHeaderBytes = 64 << 10
		base = t
	}
	return &http.Client{
		Transport: boundedTransport{base, i.allowed},
		Timeout:   fetchTimeout,
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return errors.New("more than 3 redirects")
			}
			return nil // the transport checks where it goes
		},
	}, nil
}

type boundedTransport struct {
	base    http.RoundTripper
	allowed func(*url.URL) error
}

func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := t.allowed(r.URL); err != nil {
		return nil, err
	}
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxDocument}
	return resp, nil
}

// boundedBody fails where it is too long: a cut document must not be taken for a whole one.
type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("the answer has more than %d bytes", maxDocument)
	}
	return n, err
}

// OtherIssuerError says that an issuer calls itself something else than the configuration does, so that none of its tokens would
// be accepted.
type OtherIssuerError struct{ Configured, Said string }

func (e *OtherIssuerError) Error() string {
	slash := ""
	if strings.TrimSuffix(e.Configured, "/") == strings.TrimSuffix(e.Said, "/") {
		slash = ", and a slash at the end counts"
	}
	return fmt.Sprintf("the configuration names the issuer %q, and it calls itself %q%s: write exactly what it says", excerpt(e.Configured), excerpt(e.Said), slash)
}

// discover reads the issuer's metadata, in which its name must be exactly the one that was asked, and then its keys. It does
// both each time, because the address of the keys may change.
func (i *issuer) discover(ctx context.Context, client *http.Client) ([]byte, error) {
	// go-oidc compares the names too, and its error is only text.
	provider, err := oidc.NewProvider(oidc.InsecureIssuerURLContext(oidc.ClientContext(ctx, client), i.name), i.name)
	if err != nil {
		return nil, fmt.Errorf("discover the issuer: %w", err)
	}
	var metadata struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := provider.Claims(&metadata); err != nil {
		return nil, fmt.Errorf("discover the issuer: %w", err)
	}
	if metadata.Issuer != i.name {
		return nil, &OtherIssuerError{i.name, metadata.Issuer}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, metadata.Keys, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("Cache-Control", "no-cache")
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch keys: %s answered %s", req.URL.Redacted(), resp.Status)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("fetch keys from %s: %w", req.URL.Redacted(), err)
	}
	return b, nil
}
