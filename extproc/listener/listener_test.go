package listener

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/config"
)

// TestEveryServerHasItsBounds: there is one way to make an HTTP server in this program, and it leaves no bound out.
func TestEveryServerHasItsBounds(t *testing.T) {
	s := HTTP("", nil)
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("%+v", s)
	}
	other := regexp.MustCompile(`http\.Server\{|http\.ListenAndServe|http\.Serve\(`)
	for _, pattern := range []string{"../../cmd/countersign/*.go", "../*.go", "../*/*.go", "../*/*/*.go", "../../xds/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Base(name) != "listener.go" && !strings.HasPrefix(name, "../extproctest/") && !regexp.MustCompile(`_test\.go$`).MatchString(name) && other.Match(text) {
				t.Errorf("%s makes an HTTP server of its own", name)
			}
		}
	}
}

// TestAPanicInAHandlerIsAnswered: with 503 where nothing was answered yet, and else by breaking off.
func TestAPanicInAHandlerIsAnswered(t *testing.T) {
	for _, begun := range []bool{false, true} {
		server := httptest.NewServer(guarded("the console", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if begun {
				_, _ = w.Write([]byte(`{"a":`))
				_ = http.NewResponseController(w).Flush()
			}
			panic("made to")
		})))
		resp, err := server.Client().Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if begun != (err != nil) || !begun && (resp.StatusCode != 503 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain")) {
			t.Errorf("begun %v: %d %s, %v", begun, resp.StatusCode, body, err)
		}
		_ = resp.Body.Close()
		server.Close()
	}
}

func TestAnAddressThatIsTakenSaysWhatToDo(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Listen(t.Context(), config.Address(l.Addr().String()))
	if err == nil || !strings.Contains(err.Error(), "address already in use: stop the program that has it, or use another address") {
		t.Errorf("listening twice says %v", err)
	}
}
