package redact

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"

	"github.com/countersign/countersign/extproc/gate"
)

// appendToken appends the token of a value: 128 bits of HMAC-SHA-256 over its kind and its canonical form. Without the key it
// tells only whether two values are equal.
func (p *Plan) appendToken(dst []byte, kind string, canonical []byte) []byte {
	mac := p.mac(kind)
	mac.Write(canonical)
	return appendSum(dst, mac)
}

// mac returns the HMAC for the token of a value of that kind.
func (p *Plan) mac(kind string) hash.Hash {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(kind))
	mac.Write([]byte{0})
	return mac
}

func appendSum(dst []byte, mac hash.Hash) []byte {
	return hex.AppendEncode(append(dst, "tok_"...), mac.Sum(nil)[:16])
}

// canonicalJSON returns the canonical form ([gate.AppendJSON]) of a value that the machine has read: members in order, one
// spelling for each string and number. The value is compact, valid and within the limits.
func canonicalJSON(compact []byte) ([]byte, error) {
	t := tree{rest: compact}
	v, err := t.value()
	if err != nil {
		return nil, err
	}
	canonical, err := gate.AppendJSON(nil, v)
	if err != nil {
		return nil, withheld("a value has no canonical form, so it cannot become a token")
	}
	return canonical, nil
}

// tree reads compact, valid JSON into the values that package gate knows.
type tree struct{ rest []byte }

func (t *tree) value() (any, error) {
	switch c := t.rest[0]; c {
	case '{':
		return t.object()
	case '[':
		list := []any{}
		for t.next(); t.rest[0] != ']'; {
			v, err := t.value()
			if err != nil {
				return nil, err
			}
			list = append(list, v)
			t.comma()
		}
		t.next()
		return list, nil
	case '"':
		return t.text(), nil
	case 't':
		t.rest = t.rest[len("true"):]
		return true, nil
	case 'f':
		t.rest = t.rest[len("false"):]
		return false, nil
	case 'n':
		t.rest = t.rest[len("null"):]
		return nil, nil
	default:
		n := numberRun(t.rest)
		v := json.Number(t.rest[:n])
		t.rest = t.rest[n:]
		return v, nil
	}
}

func (t *tree) object() (any, error) {
	var members []gate.Member
	for t.next(); t.rest[0] != '}'; {
		name := t.text()
		t.next() // the colon
		v, err := t.value()
		if err != nil {
			return nil, err
		}
		members = append(members, gate.Member{Name: name, Value: v})
		t.comma()
	}
	t.next()
	object, err := gate.MakeObject(members...)
	if err != nil {
		return nil, withheld("an object has one name twice")
	}
	return object, nil
}

func (t *tree) text() string {
	end, _, _ := scanString(t.rest, 1)
	s := string(appendDecoded(nil, t.rest[:end]))
	t.rest = t.rest[end:]
	return s
}

func (t *tree) next() { t.rest = t.rest[1:] }

func (t *tree) comma() {
	if t.rest[0] == ',' {
		t.next()
	}
}
