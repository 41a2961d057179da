package approval

import "testing"

// TestTwoNamesOfOnePerson: what is known of whether two are one human being. What is not known is never taken for a difference.
func TestTwoNamesOfOnePerson(t *testing.T) {
	in := func(directory, id string) Person { return Person{Directory: directory, ID: id} }
	mail := func(p Person, claim string) Person { p.Shared, p.Claim = true, claim; return p }
	for _, c := range []struct {
		name string
		p, q Person
		want identity
	}{
		{"one id of one issuer", in("https://a", "bob"), in("https://a", "bob"), one},
		{"two ids of one issuer", in("https://a", "bob"), in("https://a", "alice"), different},
		{"ids that differ in case", in("https://a", "bob"), in("https://a", "Bob"), different},
		{"one id of two issuers", in("https://a", "bob"), in("https://b", "bob"), unclear},
		{"an issuer with a slash more", in("https://a", "bob"), in("https://a/", "alice"), unclear},
		{"an object id and another client's sub", in("entra:t", "oid"), in("https://login/t", "pairwise"), unclear},
		{"one object id of two versions of a tenant's tokens", in("entra:t", "oid"), in("entra:t", "oid"), one},
		{"the object id of a guest at home", in("entra:t", "oid"), in("entra:home", "other"), unclear},
		{"nobody", Person{}, Person{}, unclear},
		{"nobody, and somebody", Person{}, in("https://a", "bob"), unclear},
		{"no ids", in("https://a", ""), in("https://a", ""), unclear},
		{"one claim of two issuers", mail(in("https://a", "1"), "bob@example.com"), mail(in("https://b", "2"), "bob@example.com"), one},
		{"one claim in two spellings", mail(in("https://a", "1"), "bob@example.com"), mail(in("https://b", "2"), "Bob@Example.com"), one},
		{"one claim, composed and decomposed", mail(in("https://a", "1"), "jos\u00e9@example.com"), mail(in("https://b", "2"), "jose\u0301@example.com"), one},
		{"one claim, in full-width letters", mail(in("https://a", "1"), "bob@example.com"), mail(in("https://b", "2"), "\uff42ob@example\uff0ecom"), one},
		{"one claim, with a sharp s", mail(in("https://a", "1"), "stra\u00dfe"), mail(in("https://b", "2"), "STRASSE"), one},
		{"one claim, its domain in Punycode", mail(in("https://a", "1"), "jo@b\u00fccher.example"), mail(in("https://b", "2"), "jo@XN--bcher-kva.example"), one},
		{"one claim, its domain with a dot at the end", mail(in("https://a", "1"), "bob@example.com."), mail(in("https://b", "2"), "bob@example.com"), one},
		{"two claims that differ in an accent", mail(in("https://a", "1"), "jos\u00e9@example.com"), mail(in("https://b", "2"), "jose@example.com"), different},
		{"two claims of two issuers", mail(in("https://a", "1"), "bob@example.com"), mail(in("https://b", "2"), "alice@example.com"), different},
		{"two subjects of one person", mail(in("https://a", "1"), "bob@example.com"), mail(in("https://a", "2"), "bob@example.com"), one},
		{"one subject with two claims", mail(in("https://a", "1"), "bob@example.com"), mail(in("https://a", "1"), "alice@example.com"), one},
		{"no claim where there should be one", mail(in("https://a", "1"), ""), mail(in("https://b", "2"), "bob@example.com"), unclear},
		{"no claim, at one issuer", mail(in("https://a", "1"), ""), mail(in("https://a", "2"), "bob@example.com"), unclear},
		{"no claims at all", mail(in("https://a", "1"), ""), mail(in("https://b", "2"), ""), unclear},
		{"a claim that only one issuer is asked for", in("https://a", "1"), mail(in("https://b", "2"), "bob@example.com"), unclear},
		{"a claim that agents of the same issuer are not asked for", in("https://a", "1"), mail(in("https://a", "2"), "bob@example.com"), different},
	} {
		if got, back := c.p.is(c.q), c.q.is(c.p); got != c.want || back != c.want {
			t.Errorf("%s: %d, and the other way round %d, want %d", c.name, got, back, c.want)
		}
	}
}
