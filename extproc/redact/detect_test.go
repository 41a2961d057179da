package redact

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

// made is a secret of no one: its characters are in order.
const made = "0123456789abcdefghijABCDEFGHIJ0123456789abcdefghijABCDEFGHIJ"

func TestDetectors(t *testing.T) {
	for _, c := range []struct{ name, detector, in, want string }{
		{"an address", "email", "write to jo.e+x@mail.example.com.", "write to #."},
		{"an address in a header", "email", `"Jo" <jo@example.com>`, `"Jo" <#>`},
		{"an address with other scripts", "email", "→ дара@пример.рф, x", "→ #, x"},
		{"an address with a quoted local part", "email", `"j o"@example.com`, `#`},
		{"an address in a URL", "email", "/u?e=jo%40example.com&x=1", "/u?e=#&x=1"},
		{"two addresses", "email", "a@b.co,c@d.co", "#,#"},
		{"an address behind a scheme", "email", "mailto:a@b.co", "mailto:#"},
		{"an address with digits behind it", "email", "a@example.com.2026-01-01", "#"},
		{"an address in escaped JSON", "email", `{"m":"a\u0040b.co","q":"\u0022"}`, `{"m":"#","q":"\u0022"}`},
		{"escapes that hide nothing", "email", `\u0041\u00zz\u00`, `\u0041\u00zz\u00`},
		{"a handle", "email", "thanks @joe and me@localhost", "thanks @joe and me@localhost"},
		{"a version", "email", "pkg@1.2.30", "pkg@1.2.30"},
		{"a card", "card", "pan 4111111111111111.", "pan #."},
		{"a card in groups", "card", "4111 1111 1111 1111", "#"},
		{"a card with dashes", "card", "no 4111-1111-1111-1111, exp", "no #, exp"},
		{"a card with dots", "card", "4111.1111.1111.1111", "#"},
		{"a card with typographic separators", "card", "4111\u00a01111\u20111111\u202f1111", "#"},
		{"a card of 15 digits", "card", "3782 822463 10005", "#"},
		{"a card with numbers beside it", "card", "7 4111 1111 1111 1111 12, 3", "#, 3"},
		{"a card between letters", "card", "x4111111111111111y", "x#y"},
		{"a wrong check digit", "card", "4111111111111112", "4111111111111112"},
		{"no issuer", "card", "1111111111111117 0000000000000000", "1111111111111117 0000000000000000"},
		{"a fraction", "card", "0.4111111111111111", "0.4111111111111111"},
		{"another fraction", "card", "4.111111111111111", "4.111111111111111"},
		{"a time in nanoseconds", "card", "1700000000000000000", "1700000000000000000"},
		{"too many digits", "card", "41111111111111114111", "41111111111111114111"},
		{"an IBAN", "iban", "to " + german + ".", "to #."},
		{"an IBAN in groups, in lower case", "iban", "de89 3704 0044 0532 0130 00 ok", "# ok"},
		{"an IBAN with other separators", "iban", "DE89\u00a03704-0044 0532 0130 00", "#"},
		{"an IBAN behind an underscore", "iban", "iban_" + german, "iban_#"},
		{"a wrong IBAN", "iban", "DE88370400440532013000", "DE88370400440532013000"},
		{"an IBAN that goes on", "iban", german + "0", german + "0"},
		{"no country", "iban", "ZZ89370400440532013000", "ZZ89370400440532013000"},
		{"a social security number", "ssn", "is " + socialDash + "!", "is #!"},
		{"with spaces", "ssn", "219 09 9999", "#"},
		{"nine digits in a cell", "ssn", "Jo,219099999,x", "Jo,#,x"},
		{"nine digits with a name", "ssn", "SSN: 219099999 ok", "SSN: # ok"},
		{"nine digits of something else", "ssn", "order 219099999 ok", "order 219099999 ok"},
		{"numbers never given", "ssn", "000-12-3456 666-12-3456 123-00-3456 123-45-0000", "000-12-3456 666-12-3456 123-00-3456 123-45-0000"},
		{"a taxpayer identification number", "ssn", "900-12-3456", "#"},
		{"with typographic dashes", "ssn", "219\u201109\u20119999", "#"},
		{"other separators", "ssn", "219-09 9999", "219-09 9999"},
		{"a private key", "key", "k=-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----;", "k=#;"},
		{"a private key that does not end", "key", "-----BEGIN OPENSSH PRIVATE KEY-----\\nabc", "#"},
		{"a PGP key", "key", "-----BEGIN PGP PRIVATE KEY BLOCK-----x-----END PGP PRIVATE KEY BLOCK-----", "#"},
		{"a public key", "key", "-----BEGIN PUBLIC KEY-----abc-----END PUBLIC KEY-----", "-----BEGIN PUBLIC KEY-----abc-----END PUBLIC KEY-----"},
		{"an AWS access key id", "key", "id=AKIA" + "ABCDEFGHIJKLMNOP" + " ", "id=# "},
		{"an AWS secret access key", "key", "secret=" + made[:28] + "/+" + made[30:40] + "\n", "secret=#\n"},
		{"a commit", "key", "0123456789abcdef0123456789abcdef01234567", "0123456789abcdef0123456789abcdef01234567"},
		{"a GitHub token", "key", "ghp_" + made[:36], "#"},
		{"a fine-grained GitHub token", "key", "github_pat_" + made, "#"},
		{"a Slack token", "key", "xoxb-" + "1234567890-" + made[:12], "#"},
		{"a Slack hook", "key", "https://hooks.slack.com/services/T000/B000/" + made[:24], "https://#"},
		{"a Google key", "key", "key=AIza" + made[:35] + "&x", "key=#&x"},
		{"a Stripe key", "key", "sk_live_" + made[:24], "#"},
		{"a key of a model", "key", "sk-ant-" + made[:24], "#"},
		{"an Entra secret", "key", "abc8Q~" + made[:34], "#"},
		{"a password in a URL", "key", "postgres://joe:p%40ss@db.example.com/x", "postgres://#@db.example.com/x"},
		{"a user in a URL", "key", "ssh://git@example.com/x", "ssh://git@example.com/x"},
		{"a secret with its label", "key", "a=1&Client_Secret=hunter22&b=2", "a=1&Client_Secret=#&b=2"},
		{"a signature", "key", "?sv=1&sig=" + made[:30] + "%3D", "?sv=1&sig=#"},
		{"a word that begins like a key", "key", "sk-learn task-oriented-programming-guide", "sk-learn task-oriented-programming-guide"},
		{"a JWT", "token", "t=eyJ0ZXN0IjoxfQ.eyJ0ZXN0IjoxfQ." + made[:20] + ".", "t=#."},
		{"an unsigned JWT", "token", "eyJ0ZXN0IjoxfQ.eyJ0ZXN0IjoxfQ.", "#"},
		{"an encrypted JWT", "token", "eyJ0ZXN0IjoxfQ..AAAA.BBBB.CCCC", "#"},
		{"base64 of JSON", "token", "eyJ0ZXN0IjoxfQ", "eyJ0ZXN0IjoxfQ"},
		{"a bearer token", "token", "Authorization: bearer " + made[:20], "Authorization: bearer #"},
		{"a sentence about bearers", "token", "the bearer responsibilities-of-everyone", "the bearer responsibilities-of-everyone"},
		{"a basic credential", "token", "Basic dXNlcjpwYXNz", "Basic #"},
		{"a basic fact", "token", "Basic knowledge", "Basic knowledge"},
		{"a token with its label", "token", "#access_token=abcdefgh&x", "#access_token=#&x"},
		{"nothing", "email", "", ""},
	} {
		t.Run(c.detector+": "+c.name, func(t *testing.T) {
			got, counts := plan(t, c.detector).Text(c.in)
			want := strings.ReplaceAll(c.want, "#", Masked)
			if strings.HasPrefix(c.in, "#") {
				want = "#" + strings.TrimPrefix(want, Masked)
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if (len(counts) > 0) != (got != c.in) {
				t.Errorf("counts %v for %q", counts, got)
			}
			if got := MaskText(c.in); want != c.in && strings.Contains(got, c.in) {
				t.Errorf("MaskText gives %q", got)
			}
		})
	}
}

func TestTextReplaces(t *testing.T) {
	p := plan(t, "email remove", "card null", "ssn token")
	got, counts := p.Text("<a@b.co> " + visa + ", " + socialDash)
	other, _ := p.Text("<other@example.com> 378282246310005, 219 09 9999")
	if got != other || !strings.HasPrefix(got, "<> [redacted], tok_") {
		t.Errorf("got %q and %q", got, other)
	}
	want := []gate.Count{{Name: "email", N: 1}, {Name: "card", N: 1}, {Name: "ssn", N: 1}}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestMatchesThatOverlapBecomeOne(t *testing.T) {
	p := plan(t, "key token", "email")
	got, counts := p.Text("x://u:p.q@b.co/")
	if got != "x://[redacted]/" || len(counts) != 2 {
		t.Errorf("got %q %v", got, counts)
	}
	got, counts = p.Text("-----BEGIN PRIVATE KEY----- a@b.co x -----END PRIVATE KEY-----y")
	if got != "[redacted]y" || len(counts) != 2 {
		t.Errorf("one match inside another: got %q %v", got, counts)
	}
}

func TestMaskTextOfPlainTextIsFree(t *testing.T) {
	s := "/v1/payments/12345/refunds?status=open"
	least := 1.0
	for range 20 { // other goroutines of the process are counted too
		least = min(least, testing.AllocsPerRun(100, func() {
			if MaskText(s) != s {
				t.Fatal("masked")
			}
		}))
	}
	if least > 0 {
		t.Errorf("%v allocations", least)
	}
}

// One card in ten and the code beside it pass for a longer card: whether they do must not show.
func TestWhatIsBesideACardTellsNothingOfIt(t *testing.T) {
	p := plan(t, "card")
	want, _ := p.Text("card " + visa + " 123, x")
	for n := range 200 {
		digits := []byte(fmt.Sprintf("4%014d0", n*7919))
		for !luhn(digits) {
			digits[15]++
		}
		if got, _ := p.Text("card " + string(digits) + " 123, x"); got != want {
			t.Fatalf("%s gives %q, another card %q", digits, got, want)
		}
	}
}

// Texts that make a careless search start over and over again. Searched in time that grows with the square of their length,
// they take minutes, and the test does not end.
func TestSearchTimeGrowsWithTheText(t *testing.T) {
	p := plan(t, detectors()...)
	for _, unit := range []string{
		"eyJaaaaaaa-", "eyJaaaaaaa_eyJ.", "bearer-", "basic+", "Bearer ", "://", "x://a:", "-----BEGIN ", "-----BEGIN PRIVATE KEY ", "sk-", "pwd=", "a@", "a%40",
		`"@`, "a.", "a@b.co", "4 1 1 1 ", "4111-", "DE89 ", "219-09-", "AKIA/", "aA1/", "%", `\u0040`, `\u00`, "é", "hooks.slack.com/services/",
	} {
		text := strings.Repeat(unit, 1<<20/len(unit))
		if got, _ := p.Text(text); got == "" {
			t.Errorf("%q: nothing is left", unit)
		}
	}
}
