package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/memory"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/extproc/redact"
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
		Resources: resourcesOf(c, kind.Shared{Plans: redact.NewPlans(b.journal.RedactKey()), Socket: c.Socket, Issuers: config.TokenIssuers(c.Agents), SessionKey: b.digestKey()}),
		Memory:    memory.Budget(int64(c.Limits.Memory)),
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
		Path: string(c.Policies), Kinds: policyKinds(), Packages: packages, CheckRedaction: redact.Check, CacheSize: verdictCache, Log: log,
	})
}

func issuersOf(c *config.Config) []identity.Issuer {
	personName := ""
	if c.People != nil {
		personName = c.People.NameClaim
	}
	issuers := make([]identity.Issuer, len(c.Agents))
	for i, a := range c.Agents {
		issuers[i] = identity.Issuer{
			Issuer: a.Issuer, Audience: a.Audience, Algorithms: a.Algorithms, Kind: issuerKind(a.Kind), Types: a.Types,
			CAFile: string(a.CAFile), JWKSFile: string(a.JWKSFile), Insecure: a.Insecure,
			MaxLifetime: a.MaxLifetime.Std(), Skew: a.Skew.Std(), KeysMaxAge: a.KeysMaxAge.Std(),
			Tenants: a.Tenants, Subjects: a.Subjects, Revoked: a.Revoked, Certificates: a.Certificates,
			GroupsClaim: a.GroupsClaim, RolesClaim: a.RolesClaim, PersonClaim: a.PeopleClaim, KindClaim: a.KindClaim,
			NameClaim: a.NameClaim, PersonNameClaim: personName,
		}
	}
	return issuers
}

// issuerKind is the kind of an issuer as package identity calls it.
func issuerKind(configured string) string {
	if configured == "oauth" {
		return ""
	}
	return configured
}

// resourcesOf makes the resources of c.
func resourcesOf(c *config.Config, shared kind.Shared) map[string]*lane.Resource {
	resources := make(map[string]*lane.Resource, len(c.Resources))
	for _, r := range c.Resources {
		b := r.Common()
		labels := make([]gate.Member, 0, len(b.Labels))
		for name, value := range b.Labels {
			labels = append(labels, gate.Member{Name: name, Value: value})
		}
		object, err := gate.MakeObject(labels...)
		if err != nil {
			panic(err) // a map has each name once
		}
		out := &lane.Resource{
			Resource: gate.Resource{Name: b.Name, Kind: b.Kind, Labels: object, Policy: b.Policy},
			Hold:     cmp.Or(b.Hold, c.Approvals.Hold).Std(),
		}
		kindOf(r).Own(r, shared, out)
		resources[b.Name] = out
	}
	return resources
}
