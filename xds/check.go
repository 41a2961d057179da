package xds

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/yamlfile"
)

// Problem is one mistake in an Envoy file.
type Problem struct {
	File    string
	Line    int // from 1; 0 where no line has it
	Message string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ": " + p.Message
}

// CheckFile checks an Envoy bootstrap, YAML or JSON, by the rules that keep it fail-closed. It reads strictly: unknown fields
// are problems, every message is validated, also inside typed_config, and a message of an unknown type is a problem. Timeouts
// are compared with the default hold. path is not read: it is for messages.
//
// The rules, in short:
//
//   - Every HTTP connection manager asks the cluster "countersign", by ext_proc or ext_authz, before its router and on every
//     route. Nothing turns that off or lets requests pass when it fails.
//   - Nothing hides a part of a request from countersign, and nothing changes it afterwards.
//   - No request is sent twice or elsewhere, and no credential is given out.
//   - Only one service can answer for countersign.
//   - The access log goes to countersign and says which operation each entry is about.
//   - The address of a client does not come from a header.
//   - No timeout is shorter than a hold.
//   - Certificates of targets are verified, and nothing crosses the network in the clear.
//   - No other listener leads around all this.
func CheckFile(path string, text []byte, kinds ...Kind) []Problem {
	return (&Checker{file: path, kinds: kinds, hold: config.DefaultHold}).check(text)
}

// CheckFileFor is CheckFile for a configuration: timeouts are compared with its holds, and a resource that a route names must
// be one of c's, attached as c says, with its answers sent to the service if c inspects them.
func CheckFileFor(c *config.Config, path string, text []byte, kinds ...Kind) []Problem {
	return (&Checker{file: path, config: c, kinds: kinds, hold: longestHold(c)}).check(text)
}

// CheckFiles is CheckFileFor for every file of envoy.files. One that cannot be read is a problem of the configuration.
func CheckFiles(c *config.Config, kinds ...Kind) (problems []Problem) {
	for _, file := range c.Envoy.Files {
		if text, err := os.ReadFile(string(file)); err == nil {
			problems = append(problems, CheckFileFor(c, string(file), text, kinds...)...)
		}
	}
	return problems
}

// Checker checks one file.
type Checker struct {
	file     string
	kinds    []Kind
	hold     time.Duration
	config   *config.Config // nil when the file is checked by itself
	clusters map[string]*clusterv3.Cluster
	listener struct { // whose chains are looked at
		of *listenerv3.Listener
		at Place
	}
	problems []Problem
}

// Problem reports a mistake at a place. The message says what to do.
func (k *Checker) Problem(at Place, format string, args ...any) {
	k.problems = append(k.problems, Problem{File: k.file, Line: at.line, Message: fmt.Sprintf(format, args...)})
}

func (k *Checker) check(text []byte) []Problem {
	boot, root, err := readBootstrap(text)
	if err != nil {
		var at *yamlfile.Error
		if errors.As(err, &at) {
			return []Problem{{File: k.file, Line: at.Line, Message: at.Error()}}
		}
		return []Problem{{File: k.file, Message: err.Error()}}
	}
	k.validate(boot, root)
	k.clusters = map[string]*clusterv3.Cluster{}
	for _, c := range boot.GetStaticResources().GetClusters() {
		k.clusters[c.GetName()] = c
	}
	k.walk(boot.ProtoReflect(), root)
	k.bootstrap(boot, root)
	slices.SortFunc(k.problems, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Message, b.Message)) })
	return slices.Compact(k.problems)
}

var jsonLine = regexp.MustCompile(`\(line (\d+):\d+\): `)

// readBootstrap parses text. Its error is a *yamlfile.Error if the line is known.
func readBootstrap(text []byte) (*bootstrapv3.Bootstrap, Place, error) {
	root, wrong := yamlfile.Parse(text)
	if wrong != nil {
		return nil, Place{}, wrong
	}
	asJSON, wrong := yamlfile.JSON(root)
	if wrong != nil {
		return nil, Place{}, wrong
	}
	boot := new(bootstrapv3.Bootstrap)
	if err := protojson.Unmarshal(asJSON, boot); err != nil {
		message := strings.TrimLeft(strings.TrimPrefix(err.Error(), "proto:"), " \u00a0")
		if m := jsonLine.FindStringSubmatchIndex(message); m != nil {
			line, _ := strconv.Atoi(message[m[2]:m[3]])
			return nil, Place{}, &yamlfile.Error{Line: line, Message: message[:m[0]] + message[m[1]:]}
		}
		return nil, Place{}, errors.New(message)
	}
	return boot, Place{root, root.Line}, nil
}

// walk visits every message, also those in an Any, and applies the rules for single messages.
func (k *Checker) walk(m protoreflect.Message, at Place) {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		if inner := k.unpack(packed, at); inner != nil {
			k.walk(inner.ProtoReflect(), at)
		}
		return
	}
	k.rules(m.Interface(), at)
	k.leaks(m.Interface(), at)
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		there := at.At(string(fd.Name()))
		switch {
		case fd.IsMap():
			v.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				k.visit(fd.MapValue(), value, there.At(key.String()))
				return true
			})
		case fd.IsList():
			for i := range v.List().Len() {
				k.visit(fd, v.List().Get(i), there.At(i))
			}
		default:
			k.visit(fd, v, there)
		}
		return true
	})
}

// visit goes on with one value of a field. at is the place of the last name that the file has for it.
func (k *Checker) visit(fd protoreflect.FieldDescriptor, v protoreflect.Value, at Place) {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		k.walk(v.Message(), at)
	case protoreflect.StringKind:
		k.text(string(fd.Name()), v.String(), at)
	case protoreflect.BytesKind:
		k.text(string(fd.Name()), string(v.Bytes()), at)
	default: // has no text
	}
}

// unpack returns the message in an Any, and validates it. Strict parsing has resolved its type already.
func (k *Checker) unpack(packed *anypb.Any, at Place) proto.Message {
	inner, err := packed.UnmarshalNew()
	if err != nil {
		k.Problem(at, "cannot be checked: %v", err)
		return nil
	}
	if v, ok := inner.(Message); ok {
		k.validate(v, at)
	}
	return inner
}

// violation is an error of generated validation code.
type violation interface {
	error
	Field() string
	Reason() string
	Cause() error
}

// validate reports what generated validation code finds wrong with m or a message in it, each on its own line.
func (k *Checker) validate(m Message, at Place) {
	if err := m.ValidateAll(); err != nil {
		k.violations(err, at)
	}
}

func (k *Checker) violations(err error, at Place) {
	if many, ok := err.(interface{ AllErrors() []error }); ok {
		for _, one := range many.AllErrors() {
			k.violations(one, at)
		}
		return
	}
	v, ok := errors.AsType[violation](err)
	if !ok {
		k.Problem(at, "%v", err)
		return
	}
	there, name := at.field(v.Field())
	if v.Cause() != nil {
		k.violations(v.Cause(), there)
		return
	}
	k.Problem(there, "%s: %s", name, v.Reason())
}

var fieldIndex = regexp.MustCompile(`^(.+?)\[(.+)\]$`)

// field follows a field as validation code names it: ConnectTimeout, Clusters[3], TypedPerFilterConfig[name].
func (p Place) field(name string) (Place, string) {
	var index string
	if m := fieldIndex.FindStringSubmatch(name); m != nil {
		name, index = m[1], m[2]
	}
	var snake strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' {
			snake.WriteByte('_')
		}
		snake.WriteRune(r)
	}
	name = strings.ToLower(snake.String())
	p = p.At(name)
	if n, err := strconv.Atoi(index); err == nil {
		return p.At(n), name
	} else if index != "" {
		return p.At(index), name
	}
	return p, name
}
