package evidence

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzValue: what was checked is walked as the check walked it, whatever an agent has put into its texts. What was not checked ends the
// walk, and nothing worse.
func FuzzValue(f *testing.F) {
	seeds := []string{
		`{}`, `{"a":""}`, `{"":"","a\"":"\\","b\\":"\\\"","c":"}],{","d":[]}`, `{"a":[{"x":"]"},["}","\\"],{},[],"",-1.5,true,null],"b":{"c":{"d":"\\\\\""}},"e":1}`,
		`{`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":}`, `{"a":1`, `{"a":"`, `{"a":"\`, `{"a":[`, `{"a":[1,`, `{"a":]}`, `[`, `[1`, `[,`, `[]`, `["a"`, ``, `"`,
		`{"a":1}`, `{"a":12}`, `{"a":1,"b":2}`, `{"a":12,"b":2}`, `{"a\"b":"c"}`, `{"a":"b","a\"b":"c"}`, `{"a":1,"c":3}`,
	}
	for _, text := range seeds {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want, got, listed, elements, of []string
		err := scanObject(text, func(name, value []byte) {
			want = append(want, string(name)+"="+string(value))
			s := scanner{b: value}
			if len(value) > 0 && value[0] == '[' {
				_ = s.array(1, func(element []byte) { elements = append(elements, string(element)) })
			}
		})
		v := Value(text)
		v.Each(func(name, value []byte) { got = append(got, string(name)+"="+string(value)) })
		for _, m := range v.Members(nil) {
			listed = append(listed, string(m.Name)+"="+string(m.Value))
			m.Value.Elements(func(element []byte) { of = append(of, string(element)) })
		}
		for _, other := range append(seeds, string(text)) {
			if diff := cmp.Diff(v.Members(nil), v.MembersLike(Value(other).Members(nil), nil)); err == nil && diff != "" {
				t.Errorf("%s, like %s (-want +got):\n%s", text, other, diff)
			}
		}
		v.Elements(func([]byte) {})
		v.Get("a")
		if err != nil {
			return
		}
		for _, members := range [][]string{got, listed} {
			if diff := cmp.Diff(want, members); diff != "" {
				t.Errorf("%s (-want +got):\n%s", text, diff)
			}
		}
		if diff := cmp.Diff(elements, of); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	})
}
