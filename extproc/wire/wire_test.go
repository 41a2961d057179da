package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authz "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// format reads b as a message of one type: here, which is false where it was left to the generated decoder, and there.
type format struct {
	name  string
	empty func() proto.Message
	here  func(b []byte) (any, bool)
	there func(m proto.Message) any
	whole func() Message
}

var readers = []format{formatOf(checks, checkOf), formatOf(requests, requestOf), formatOf(logs, logsOf), formatOf(pieces, pieceOf)}

func formatOf[M proto.Message, T any, P interface {
	*T
	Message
	read(m reader)
}](of *shape, there func(M) T) format {
	empty := (*new(M)).ProtoReflect()
	name := string(empty.Descriptor().Name())
	if strings.Contains(string(empty.Descriptor().FullName()), ".network_ext_proc.") {
		name = "Network" + name
	}
	return format{
		name,
		func() proto.Message { return empty.New().Interface() },
		func(b []byte) (any, bool) {
			var t T
			var odd bool
			P(&t).read(reader{b: b, of: of, odd: &odd})
			return t, !odd
		},
		func(m proto.Message) any { return there(m.(M)) },
		func() Message { return P(new(T)) },
	}
}

// ordered puts what may come out of a map in order. Of two with one name the last counts.
func ordered(v any) any {
	byName := func(fields []Field) (last []Field) {
		m := map[string]string{}
		for _, f := range fields {
			m[f.Name] = f.Value
		}
		for _, name := range slices.Sorted(maps.Keys(m)) {
			last = append(last, Field{Name: name, Value: m[name]})
		}
		return last
	}
	switch v := v.(type) {
	case Check:
		v.Extensions = byName(v.Extensions)
		return v
	case Logs:
		for i := range v.Entries {
			v.Entries[i].Tags = byName(v.Entries[i].Tags)
		}
	}
	return v
}

// agree holds both readers against each other. It reports whether the message was read here.
func agree(t *testing.T, kind int, b []byte) bool {
	t.Helper()
	r := readers[kind]
	came := bytes.Clone(b)
	got, read := r.here(came)
	m := r.empty()
	err := proto.Unmarshal(b, m)
	whole := r.whole()
	if refused := whole.Unmarshal(bytes.Clone(b)); (refused != nil) != (err != nil) {
		t.Fatalf("%s %x: it is refused with %v, and by the generated decoder with %v", r.name, b, refused, err)
	}
	if !read {
		return false
	}
	if err != nil {
		t.Fatalf("%s %x: it was read here, and the generated decoder says: %v", r.name, b, err)
	}
	for i := range came { // what was read has no part in the buffer
		came[i] = 0xFF
	}
	if diff := cmp.Diff(ordered(r.there(m)), ordered(got), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s %x:\n%s", r.name, b, diff)
	}
	return true
}

func FuzzReadsAsGenerated(f *testing.F) {
	for kind := range readers {
		for n := range 20 {
			b, err := proto.Marshal(filled(readers[kind].empty(), rand.New(rand.NewPCG(uint64(n), uint64(kind)))))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(kind), b)
		}
		for _, b := range envoys(f, kind) {
			f.Add(uint8(kind), b)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) { agree(t, int(kind)%len(readers), b) })
}

// TestReadsEveryMessage: any message of the types is read here, whatever fields it has and in any order, and means what the generated
// decoder says.
func TestReadsEveryMessage(t *testing.T) {
	for kind, r := range readers {
		for n := range 1000 {
			random := rand.New(rand.NewPCG(uint64(n), 7))
			m := filled(r.empty(), random)
			if q, ok := m.(*authz.CheckRequest); ok && q.GetAttributes().GetRequest().GetHttp().GetHeaders() != nil {
				q.Attributes.Request.Http.Headers = nil // the one field that is left to the generated decoder
			}
			b, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if !agree(t, kind, b) {
				t.Fatalf("%s was not read here: %v", r.name, m)
			}
			if !agree(t, kind, shuffled(b, random)) {
				t.Fatalf("%s was not read here when its fields came in another order: %v", r.name, m)
			}
		}
	}
}

// TestOddMessages writes messages as no Envoy does, in each place of them: what is read here is read as the generated decoder does, and
// what that refuses is refused.
func TestOddMessages(t *testing.T) {
	for kind, r := range readers {
		read := 0
		for n := range 1500 {
			random := rand.New(rand.NewPCG(uint64(n), 8))
			b, err := proto.Marshal(filled(r.empty(), random))
			if err != nil {
				t.Fatal(err)
			}
			more, err := proto.Marshal(filled(r.empty(), random))
			if err != nil {
				t.Fatal(err)
			}
			for _, odd := range [][]byte{
				slices.Concat(b, more), bent(b, random, 0), bent(bent(b, random, 0), random, 0), b[:random.IntN(len(b)+1)], flipped(b, random),
			} {
				if agree(t, kind, odd) {
					read++
				}
			}
		}
		if read == 0 {
			t.Errorf("%s: nothing of that was read here, so that nothing was compared", r.name)
		}
	}
}

// TestReadsWhatEnvoySends: what was recorded of an Envoy that this program configured is read here.
func TestReadsWhatEnvoySends(t *testing.T) {
	for kind, r := range readers {
		all := envoys(t, kind)
		for i, b := range all {
			if !agree(t, kind, b) {
				t.Errorf("%s %d is left to the generated decoder", r.name, i)
			}
		}
		if len(all) < 2 {
			t.Errorf("%d messages of Envoy's for %s", len(all), r.name)
		}
	}
}

// envoys are messages of a type that were recorded, each after its length.
func envoys(tb testing.TB, kind int) (all [][]byte) {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", readers[kind].name))
	if err != nil {
		tb.Fatal(err)
	}
	for len(b) > 0 {
		n := binary.BigEndian.Uint32(b)
		all, b = append(all, b[4:4+n]), b[4+n:]
	}
	return all
}

// filled sets fields of m, and of the messages in it, at random.
func filled(m proto.Message, random *rand.Rand) proto.Message {
	fill(m.ProtoReflect(), random, 6)
	return m
}

func fill(m protoreflect.Message, random *rand.Rand, deep int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if random.IntN(3) == 0 || deep == 0 && fd.Message() != nil {
			continue
		}
		switch {
		case fd.IsMap():
			for range random.IntN(3) {
				v := m.Mutable(fd).Map().NewValue()
				if fd.MapValue().Message() != nil {
					fill(v.Message(), random, deep-1)
				} else {
					v = scalar(fd.MapValue(), random)
				}
				m.Mutable(fd).Map().Set(scalar(fd.MapKey(), random).MapKey(), v)
			}
		case fd.IsList():
			for range random.IntN(3) {
				if fd.Message() == nil {
					m.Mutable(fd).List().Append(scalar(fd, random))
					continue
				}
				fill(m.Mutable(fd).List().AppendMutable().Message(), random, deep-1)
			}
		case fd.Message() != nil:
			fill(m.Mutable(fd).Message(), random, deep-1)
		default:
			m.Set(fd, scalar(fd, random))
		}
	}
}

// words are texts that mean something here, and some that do not.
var words = []string{
	"", "op", "trace_id", MetadataNamespace, "envoy.filters.http.ext_authz", attributesOf, "source.address", "response.code_details",
	"resource", ":path", ":protocol", "x-a", "ä€😀", "via_upstream",
}

func scalar(fd protoreflect.FieldDescriptor, random *rand.Rand) protoreflect.Value {
	number := random.Uint64() >> random.IntN(64)
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(number%2 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(number % 12))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(number))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(number))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(number)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(number))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(number))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(words[number%uint64(len(words))]))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(words[number%uint64(len(words))])
	default:
		panic(fmt.Sprint("no value of kind ", fd.Kind()))
	}
}

// cut takes a message apart into its fields.
func cut(b []byte) (fields [][]byte) {
	for len(b) > 0 {
		_, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return append(fields, b)
		}
		fields, b = append(fields, b[:n]), b[n:]
	}
	return fields
}

func shuffled(b []byte, random *rand.Rand) []byte {
	fields := cut(b)
	random.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	return bytes.Join(fields, nil)
}

func flipped(b []byte, random *rand.Rand) []byte {
	b = bytes.Clone(b)
	if len(b) > 0 {
		b[random.IntN(len(b))] ^= 1 << random.IntN(8)
	}
	return b
}

// bent does one odd thing to a message, or to one that is in it.
func bent(b []byte, random *rand.Rand, deep int) []byte {
	fields := cut(b)
	if len(fields) == 0 {
		return b
	}
	i := random.IntN(len(fields))
	num, typ, n := protowire.ConsumeTag(fields[i])
	if n < 0 {
		return b
	}
	if typ == protowire.BytesType && deep < 8 && random.IntN(4) > 0 {
		if within, n := protowire.ConsumeBytes(fields[i][n:]); n >= 0 {
			fields[i] = protowire.AppendBytes(protowire.AppendTag(nil, num, typ), bent(within, random, deep+1))
			return bytes.Join(fields, nil)
		}
	}
	other := protowire.Number(1 + random.IntN(35))
	switch random.IntN(12) {
	case 0: // twice
		fields = append(fields, fields[i])
	case 1: // twice, the second with nothing in it
		fields = append(fields, protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), nil))
	case 2: // as a number
		fields[i] = protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), random.Uint64()>>random.IntN(64))
	case 3: // as a fixed number
		fields[i] = protowire.AppendFixed64(protowire.AppendTag(nil, num, protowire.Fixed64Type), random.Uint64())
	case 4:
		fields[i] = protowire.AppendFixed32(protowire.AppendTag(nil, num, protowire.Fixed32Type), random.Uint32())
	case 5: // as a group
		fields[i] = protowire.AppendTag(append(protowire.AppendTag(nil, num, protowire.StartGroupType), fields[i]...), num, protowire.EndGroupType)
	case 6: // ends a group that has not begun
		fields[i] = protowire.AppendTag(nil, num, protowire.EndGroupType)
	case 7: // a number that no field has
		fields[i] = protowire.AppendVarint(protowire.AppendTag(nil, []protowire.Number{64, 100, 1<<29 - 1}[random.IntN(3)], protowire.VarintType), 1)
	case 8: // another field, perhaps of the same oneof
		fields = append(fields, protowire.AppendBytes(protowire.AppendTag(nil, other, protowire.BytesType), nil))
	case 9: // no UTF-8
		fields[i] = protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), []byte("\xff\xc0"))
	case 10: // a number in more bytes than it needs, as a tag too
		fields = append(fields, append(protowire.AppendTag(nil, other, protowire.VarintType), 0x81, 0x80, 0x00), []byte{byte(other<<3) | 0x80, 0x80, 0x00, 1})
	case 11: // a message with one more field
		fields = append(fields, protowire.AppendVarint(protowire.AppendTag(nil, other, protowire.VarintType), random.Uint64()>>random.IntN(64)))
	}
	return bytes.Join(fields, nil)
}

func BenchmarkUnmarshal(b *testing.B) {
	for kind, r := range readers {
		all := envoys(b, kind)
		b.Run(r.name+"/here", func(b *testing.B) {
			b.ReportAllocs()
			m := r.whole()
			for i := 0; b.Loop(); i++ {
				if err := m.Unmarshal(all[i%len(all)]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(r.name+"/generated", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				m := r.empty()
				if err := proto.Unmarshal(all[i%len(all)], m); err != nil {
					b.Fatal(err)
				}
				r.there(m)
			}
		})
	}
}
