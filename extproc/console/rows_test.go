package console

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBodyRows(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       [][3]string
	}{
		{"each value has its whole path", `{"approver":{"subject":"u-bob","amr":["pwd","otp"]},"think":0.2,"left":null,"ok":true}`, [][3]string{
			{"approver.subject", "string", "u-bob"},
			{"approver.amr[0]", "string", "pwd"},
			{"approver.amr[1]", "string", "otp"},
			{"think", "number", "0.2"},
			{"left", "null", "null"},
			{"ok", "bool", "true"},
		}},
		{"what is empty is a row", `{"rules":[],"redacted":{},"a":[{}]}`, [][3]string{{"rules", "list", "[]"}, {"redacted", "object", "{}"}, {"a[0]", "object", "{}"}}},
		{"a name that is no name stands in brackets", `{"redacted":{"$..ssn":1,"a/b~c":2}}`, [][3]string{{`redacted["$..ssn"]`, "number", "1"}, {`redacted["a/b~c"]`, "number", "2"}}},
		{"hidden characters are shown", "{\"reason\":\"a\u202eb\"}", [][3]string{{"reason", "string", `a\u{202E}b`}}},
		{"nothing", `{}`, [][3]string{{"", "object", "{}"}}},
		{"not JSON", `nonsense`, [][3]string{{"", "text", "nonsense"}}},
		{"JSON that breaks off is shown whole", `{"a":1,`, [][3]string{{"", "text", `{"a":1,`}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got [][3]string
			for _, row := range bodyRows([]byte(c.body)) {
				got = append(got, [3]string{row.Path.Text, row.Type, row.Value.Text})
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}
