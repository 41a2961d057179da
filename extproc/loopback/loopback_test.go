package loopback

import "testing"

func TestWhatIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LocalHost": true, "localhost.": true, "idp.localhost": true, "a.IDP.localhost.": true,
		"127.0.0.1": true, "127.8.9.1": true, "::1": true, "[::1]": true, "::ffff:127.0.0.1": true,
		"": false, "localhost.test": false, "notlocalhost": false, "127.0.0.1.test": false, "0.0.0.0": false, "::": false,
		"10.0.0.1": false, "localhost..": false, "127.1": false, "example.test": false,
	} {
		if Host(host) != want {
			t.Errorf("%q: %t", host, !want)
		}
	}
}
