package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
)

// removedBuiltins are built-ins that policies cannot call, each with the reason; those that OPA marks as not deterministic are
// removed too. A verdict depends on the input and the policies only: otherwise it could not be explained from its record, and
// could differ between the question to the approver and the release.
var removedBuiltins = map[string]string{
	"http.send":              "policies have no network; put what you need into a data file",
	"net.lookup_ip_addr":     "policies have no network",
	"opa.runtime":            "policies do not see the gateway's environment",
	"time.now_ns":            "policies have no clock; use time.parse_rfc3339_ns(input.context.time)",
	"rand.intn":              "verdicts are not random",
	"uuid.rfc4122":           "verdicts are not random",
	"io.jwt.encode_sign":     "policies do not sign",
	"io.jwt.encode_sign_raw": "policies do not sign",
	"io.jwt.decode_verify":   "it reads the clock; the agent's token is verified before policy is asked, and its claims are input.principal.claims",
	"crypto.x509.parse_and_verify_certificates":              "it reads the clock and the system's certificates",
	"crypto.x509.parse_and_verify_certificates_with_options": "it reads the clock and the system's certificates",
	"json.match_schema":      "a schema can refer to the network; say what you require in Rego",
	"json.verify_schema":     "a schema can refer to the network; say what you require in Rego",
	"providers.aws.sign_req": "policies do not sign",
}

// capabilities are this OPA's, without what reaches outside the evaluation. AllowNet is empty and not nil: with nil a schema
// reference could fetch from any host.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(ast.RegoV1))
	c.AllowNet = []string{}
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		_, removed := removedBuiltins[b.Name]
		return removed || b.Nondeterministic
	})
	return c
}

// capabilitiesFile returns what policies may use here, in the format of `opa check --capabilities`.
func capabilitiesFile() ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetIndent("", "  ")
	if err := e.Encode(capabilities()); err != nil {
		return nil, fmt.Errorf("encode the capabilities: %w", err)
	}
	return out.Bytes(), nil
}

// newCompiler returns a strict compiler that knows the schema of the input.
func newCompiler(input reflect.Type) *ast.Compiler {
	var schema any
	if err := json.Unmarshal(schemaText(input), &schema); err != nil {
		panic(fmt.Sprintf("read our own input schema: %v", err))
	}
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, schema)
	return ast.NewCompiler().
		SetErrorLimit(0).
		WithStrict(true).
		WithCapabilities(capabilities()).
		WithSchemas(schemas).
		WithUseTypeCheckAnnotations(false)
}

// parsed is a source, read into modules and data.
type parsed struct {
	modules map[string]*ast.Module // without tests, by the path that messages show
	tests   map[string]*ast.Module
	data    map[string]any
	shape   shape
	broken  bool // a file could not be parsed
}

// parse reads every file of s, and reports what is wrong with each one.
func (s *source) parse(input reflect.Type, check func(gate.Redaction) error, problems *Problems) *parsed {
	p := &parsed{modules: map[string]*ast.Module{}, tests: map[string]*ast.Module{}, shape: shape{}}
	roots := s.checkBundle(problems)
	options := ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()}
	for i := range s.files {
		f := &s.files[i]
		if !f.isRego() {
			continue
		}
		module, err := ast.ParseModuleWithOpts(f.path, string(f.text), options)
		if err != nil {
			problems.addOPA(err)
			p.broken = true
			continue
		}
		if place := packagePlace(module); !underRoots(place, roots) {
			problems.at(module.Package.Location, "%s is outside the roots of the bundle %q", module.Package, roots)
		}
		p.shape.read(module, input, check, f.isTest(), problems)
		speakWithoutWords(module)
		if f.isTest() {
			p.tests[f.path] = module
		} else {
			p.modules[f.path] = module
		}
	}
	p.data = s.readData(roots, problems)
	return p
}

func packagePlace(module *ast.Module) (place []string) {
	for _, term := range module.Package.Path[1:] {
		if s, ok := term.Value.(ast.String); ok {
			place = append(place, string(s))
		}
	}
	return place
}
