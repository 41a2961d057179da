package evidence

import (
	"encoding/hex"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// TestSureBodiesAreCanonical: what the journal does not read again, because its body is sure of itself, is what the reading would have
// passed, and means what it says, whatever is in its fields.
func TestSureBodiesAreCanonical(t *testing.T) {
	for n := range 5000 {
		random := rand.New(rand.NewPCG(uint64(n), 1))
		decision, end := &gate.Decision{}, &gate.Outcome{}
		odd(reflect.ValueOf(decision).Elem(), random)
		odd(reflect.ValueOf(end).Elem(), random)
		decision.Own, end.Own = gate.Member{}, gate.Member{}
		for kind, body := range map[string]gate.Sure{gate.OperationDecided: decision, gate.OperationFinished: end} {
			line, err := body.AppendJSON(nil)
			if err != nil {
				t.Fatal(err)
			}
			allows, decided, sure := body.Says()
			read, err := outcomeOf(kind, line)
			if said := (outcome{allows, decided}); err != nil || !sure || read != said {
				t.Fatalf("%s\nit says %+v (sure: %v), and reads as %+v, %v", line, said, sure, read, err)
			}
		}
	}
}

// TestWhatAKindAddsIsRead: a body with a member of a kind's is as good as the kind, so it is read.
func TestWhatAKindAddsIsRead(t *testing.T) {
	for name, own := range map[string]any{"an object out of order": gate.Raw(`{"b":1,"a":2}`), "no JSON": gate.Raw(`{`), "deep": deep(2 * maxDepth)} {
		for kind, body := range map[string]gate.Body{
			gate.OperationDecided: &gate.Decision{Own: gate.Member{Name: "x", Value: own}}, gate.OperationFinished: &gate.Outcome{Own: gate.Member{Name: "x", Value: own}},
		} {
			if _, err := encode("node", &gate.Record{Type: kind, Body: body}); err == nil {
				t.Errorf("%s: %s is taken", kind, name)
			}
		}
	}
}

func deep(n int) any {
	if n == 0 {
		return nil
	}
	return []any{deep(n - 1)}
}

// odd fills what v has with values that are hard to write.
func odd(v reflect.Value, random *rand.Rand) {
	texts := []string{"", "plain", "\x00\x1f\b\t\n\f\r\"\\/", "\xff\xfe", "ä€😀\u2028\ue000", hex.EncodeToString(make([]byte, 300)), "\xed\xa0\x80"}
	switch v.Kind() {
	case reflect.String:
		v.SetString(texts[random.IntN(len(texts))])
	case reflect.Int, reflect.Int64:
		v.SetInt([]int64{0, 1, -1, math.MaxInt64, math.MinInt64, random.Int64()}[random.IntN(6)])
		if v.Type() != reflect.TypeFor[time.Duration]() && v.Type() != reflect.TypeFor[int64]() {
			v.SetInt(random.Int64N(5))
		}
	case reflect.Uint64:
		v.SetUint(1 + random.Uint64()>>(1+random.IntN(63)))
	case reflect.Bool:
		v.SetBool(random.IntN(2) == 0)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Interface {
			return
		}
		for range random.IntN(3) {
			one := reflect.New(v.Type().Elem()).Elem()
			odd(one, random)
			v.Set(reflect.Append(v, one))
		}
	case reflect.Pointer:
		if random.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			odd(v.Elem(), random)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				odd(v.Field(i), random)
			}
		}
	default: // has nothing of that kind
	}
}
