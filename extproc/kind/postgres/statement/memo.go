package statement

import (
	"maps"
	"slices"
	"strings"
	"sync"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// A memo remembers what a statement does, so that one that is run again and again is analyzed once for each role and search_path.
type memo struct {
	mu      sync.Mutex
	known   bool // whether the statement's meaning depends on more of the state than a key has
	depends bool
	list    []remembered // the last is the newest

	fingerprint, normalized written
}

// A written is a text that is made when it is first asked for.
type written struct {
	once sync.Once
	text string
	err  error
}

func (w *written) get(text func() (string, error)) (string, error) {
	w.once.Do(func() { w.text, w.err = text() })
	return w.text, w.err
}

type remembered struct {
	key    key
	result Analysis
}

// maxRemembered is how many analyses of a statement are kept.
const maxRemembered = 4

// A key is all that an analysis depends on, where nothing of the session is temporary.
type key struct {
	catalog                          uint64 // and not a pointer, which would keep every catalog that there was
	role, path, harmless, parameters string
}

// key is false where the analysis depends on more.
func (s Statement) key(c *Catalog, st *State) (key, bool) {
	if s.memo == nil || st.Stale != "" || len(st.Temp) > 0 || len(st.TempTypes) > 0 || len(st.Fresh) > 0 || s.memo.dependent(s.node) {
		return key{}, false
	}
	k := key{catalog: c.identity(), role: st.Role, path: strings.Join(st.SearchPath, "\x00")}
	if len(st.Harmless) > 0 {
		k.harmless = strings.Join(slices.Sorted(maps.Keys(st.Harmless)), "\x00")
	}
	var b strings.Builder
	for _, p := range s.Parameters {
		b.WriteString(itoa(int64(p)) + " ")
	}
	k.parameters = b.String()
	return k, true
}

// dependent says that a statement names what the session has prepared or declared.
func (m *memo) dependent(n *tree.Node) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known {
		m.known = true
		defer func() {
			if recover() != nil { // nested too deeply, which Analyze says
				m.depends = true
			}
		}()
		walk(n, func(x any) bool {
			switch x.(type) {
			case *tree.ExecuteStmt, *tree.FetchStmt, *tree.CurrentOfExpr:
				m.depends = true
			}
			return !m.depends
		})
	}
	return m.depends
}

func (m *memo) get(k key) (Analysis, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := len(m.list) - 1; i >= 0; i-- {
		if m.list[i].key == k {
			return m.list[i].result, true
		}
	}
	return Analysis{}, false
}

func (m *memo) put(k key, a Analysis) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.list) >= maxRemembered {
		m.list = slices.Delete(m.list, 0, 1)
	}
	m.list = append(m.list, remembered{k, a})
}
