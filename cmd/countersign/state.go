package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/extproc/redact"
	"github.com/countersign/countersign/xds"
)

// verdictCache is how many verdicts a policy set remembers.
const verdictCache = 4096

// active is everything that one configuration made: what a reload replaces.
type active struct {
	config   *config.Config
	policies *policy.Set
	verifier *identity.Verifier
	state    *lane.State
}

// builder makes states.
type builder struct {
	log     *slog.Logger
	journal *evidence.Journal

	approvals *approvals // nil where nobody can be asked
	alarm     func(kind, detail string)
}

// build makes the state that c describes. What of previous can serve on is taken over: a verifier keeps its keys.
func (b *builder) build(ctx context.Context, c *config.Config, previous *active) (*active, error) {
	policies, err := loadPolicies(ctx, c, b.log)
	if err != nil {
		return nil, err
	}
	a := &active{config: c, policies: policies}
	if previous != nil && reflect.DeepEqual(previous.config.Agents, c.Agents) {
		a.verifier = previous.verifier
	} else if a.verifier, err = identity.New(identity.Options{Issuers: issuersOf(c), Log: b.log, Alarm: b.alarm}); err != nil {
		return nil, fmt.Errorf("agents: %w", err)
	}
	a.state = &lane.State{
		Gate: &gate.Gate{
			Policy:       policies,
			Recorder:     b.journal,
			DigestKey:    b.digestKey(),
			ConfigDigest: c.Digest(),
			Now:          time.Now,
			Approvals:    b.approvals.asking(c, b.journal.RedactKey()),
		},
		Identity:  a.verifier,
		Resources: resourcesOf(c, redact.NewPlans(b.journal.RedactKey()), b.digestKey()),
		Memory:    judgedMemory(c, thisMachine()),
	}
	return a, nil
}

// digestKey keys the digests of operations, which approvals bind to.
func (b *builder) digestKey() []byte {
	if b.approvals != nil {
		return b.approvals.digestKey
	}
	return b.journal.DigestKey()
}

func loadPolicies(ctx context.Context, c *config.Config, log *slog.Logger) (*policy.Set, error) {
	packages := map[string][]string{}
	for _, r := range c.Resources {
		common := r.Common()
		packages[common.Policy] = append(packages[common.Policy], common.Kind)
	}
	return policy.Load(ctx, policy.Options{
		Path: string(c.Policies), Kinds: kinds, Packages: packages, CheckRedaction: redact.Check, CacheSize: verdictCache, Log: log,
	})
}

func issuersOf(c *config.Config) []identity.Issuer {
	issuers := make([]identity.Issuer, len(c.Agents))
	for i, a := range c.Agents {
		issuers[i] = identity.Issuer{
			Issuer: a.Issuer, Audience: a.Audience, Algorithms: a.Algorithms, Kind: kindOf(a.Kind), Types: a.Types,
			CAFile: string(a.CAFile), JWKSFile: string(a.JWKSFile), Insecure: a.Insecure,
			MaxLifetime: a.MaxLifetime.Std(), Skew: a.Skew.Std(), KeysMaxAge: a.KeysMaxAge.Std(),
			Tenants: a.Tenants, Subjects: a.Subjects, Revoked: a.Revoked,
			GroupsClaim: a.GroupsClaim, RolesClaim: a.RolesClaim, PersonClaim: a.PeopleClaim, KindClaim: a.KindClaim,
		}
	}
	return issuers
}

// kindOf is the kind of an issuer as package identity calls it.
func kindOf(configured string) string {
	if configured == "oauth" {
		return ""
	}
	return configured
}

// resourcesOf makes the resources of c. cookieKey is that of approvals: where gateways share them, a session begun at one goes
// on at another.
func resourcesOf(c *config.Config, plans *redact.Plans, cookieKey []byte) map[string]*lane.Resource {
	resources := make(map[string]*lane.Resource, len(c.Resources))
	for _, r := range config.Each[*config.HTTP](c) {
		labels := make([]gate.Member, 0, len(r.Labels))
		for name, value := range r.Labels {
			labels = append(labels, gate.Member{Name: name, Value: value})
		}
		object, err := gate.MakeObject(labels...)
		if err != nil {
			panic(err) // a map has each name once
		}
		own := &extproc.HTTP{
			Web: web.Options{
				Cookies: r.Cookies != "remove",
				MaxBody: int64(r.Limits.RequestBody), MaxValues: r.Limits.Values, ExactNumbers: r.Numbers == "exact",
				Stream: r.Body == "stream", Paths: r.Paths, Upgrades: r.Upgrades,
				Volatile: r.VolatileHeaders, Identity: r.IdentityHeaders,
			},
			PassResponse: r.PassesAnswers(),
			StreamBody:   r.Body == "stream",
			ByAuthz:      r.Attach == "ext_authz",

			RewriteURLs:     *r.RewriteURLs,
			Rewrite:         r.Rewrite,
			ResponseHeaders: r.ResponseHeaders,
			Plans:           plans,
			Cookies:         cookiesOf[r.Cookies],
			CookieKey:       cookieKey,
			SecureCookies:   r.Listen.TLS != nil,
			MaxHead:         int64(r.Limits.Headers),
			MaxAnswer:       int64(r.Limits.ResponseBody),
			MaxRedacted:     int64(r.Limits.ResponseBody),
			RequestTime:     r.Limits.RequestTime.Std(),
		}
		if host, port, tls, err := r.TargetAddress(); err == nil {
			own.Target = web.NewOrigin(host, port, tls)
		}
		if own.MaxRedacted == 0 {
			own.MaxRedacted = config.DefaultResponseBody
		}
		if r.Credential != nil {
			own.Credential = &credentialFile{header: strings.ToLower(r.Credential.Header), path: string(r.Credential.ValueFile)}
		}
		resources[r.Name] = &lane.Resource{
			Resource:     gate.Resource{Name: r.Name, Kind: r.Kind, Labels: object, Policy: r.Policy},
			Fingerprint:  xds.Fingerprint(r),
			EndWithToken: r.EndWithToken,
			Hold:         cmp.Or(r.Hold, c.Approvals.Hold).Std(),
			Own:          own,
		}
	}
	return resources
}

var cookiesOf = map[string]extproc.Cookies{"pass": extproc.PassCookies, "session": extproc.SessionCookies}

// schemes are what a value of Authorization begins with, as a rule (IANA's registry, and what is not in it).
var schemes = []string{"apikey", "basic", "bearer", "digest", "dpop", "key", "negotiate", "token"}

// credentialFile is a header whose value is in a file. The file is read again when it has changed.
type credentialFile struct {
	header, path string

	mu    sync.Mutex
	read  os.FileInfo // of the file that value is from
	value string
}

// Field returns the header field. A file that is gone, empty or not a header's value is an error.
func (f *credentialFile) Field() (web.Field, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return web.Field{}, err
	}
	if f.read == nil || !info.ModTime().Equal(f.read.ModTime()) || info.Size() != f.read.Size() || !os.SameFile(info, f.read) {
		text, err := os.ReadFile(f.path)
		if err != nil {
			return web.Field{}, err
		}
		value := strings.TrimRight(string(text), "\r\n")
		// Envoy answers a control character with an error of its own, after the operation has been allowed.
		control := func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7F }
		if strings.TrimSpace(value) == "" || strings.ContainsFunc(value, control) {
			return web.Field{}, fmt.Errorf("%s does not hold one line with a header's value", f.path)
		}
		if scheme := strings.ToLower(strings.TrimSpace(value)); slices.Contains(schemes, scheme) {
			return web.Field{}, fmt.Errorf("%s holds the scheme %q, and no credential after it", f.path, scheme)
		}
		f.read, f.value = info, value
	}
	return web.Field{Name: f.header, Value: f.value}, nil
}
