package statement

import (
	"container/list"
	"errors"
	"fmt"
	"strings"
	"sync"
	_ "unsafe" // for the link below

	tree "github.com/pganalyze/pg_query_go/v6"
	wasm "github.com/wasilibs/go-pgquery"
	"github.com/wasilibs/go-pgquery/parser"
	"google.golang.org/protobuf/proto"
)

// The parser is PostgreSQL's, as WebAssembly. Its library keeps instances in a pool, and puts one back also when it has trapped: then its memory
// is as the trap left it, and what it says of the next text, which may be somebody else's, is worth nothing. So one text is parsed at a
// time, texts that are nested so deeply that its stack could overflow are not given to it, and should it trap all the same, the pool
// is emptied before the next text: for that it has to be reached by its name in the library.
//
//go:linkname instances github.com/wasilibs/go-pgquery/parser.abiPool
var instances *list.List

var parserMutex sync.Mutex

// parsing calls the parser with f.
func parsing[T any](text string, f func(string) (T, error)) (result T, err error) {
	parserMutex.Lock()
	defer parserMutex.Unlock()
	defer func() {
		if p := recover(); p != nil {
			instances.Init()
			var none T
			result, err = none, &SyntaxError{Code: "0A000", Message: fmt.Sprintf("the parser failed: %v", p)}
		}
	}()
	scan, err := wasm.Scan(text)
	if err != nil {
		return result, err
	}
	if n := nesting(scan.GetTokens()); n > maxNesting {
		return result, &SyntaxError{Code: "54001", Message: fmt.Sprintf("the statement is nested %d deep, and the limit is %d", n, maxNesting)}
	}
	return f(text)
}

// Newer is the first version of a server that has syntax which the parser does not know: that of PostgreSQL 17.
const Newer = 180000

// maxNesting is how deep a text may be nested, as nesting counts it. The parser's stack takes twice as much, of whatever kind.
const maxNesting = 1000

// nesting is at least how deep the tree of a text will be, in nodes of expressions, joins and set operations. Each token that can make a tree deeper
// counts, until a comma, AND, SELECT or the like begins another branch; joins and set operations count through.
func nesting(tokens []*tree.ScanToken) int {
	type level struct{ ops, chain, bottom int }
	stack := []level{{}}
	deepest := 0
	for _, t := range tokens {
		top := &stack[len(stack)-1]
		switch t.GetToken() {
		case tree.Token_ASCII_40, tree.Token_ASCII_91, tree.Token_CASE: // ( [
			stack = append(stack, level{bottom: top.bottom + top.ops + top.chain + 1})
			top = &stack[len(stack)-1]
		case tree.Token_ASCII_41, tree.Token_ASCII_93, tree.Token_END_P: // ) ]
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
				top = &stack[len(stack)-1]
				top.ops++
			}
		case tree.Token_ASCII_44, tree.Token_AND, tree.Token_OR: // ,
			top.ops = 0
		case tree.Token_SELECT, tree.Token_WHERE, tree.Token_WHEN, tree.Token_THEN, tree.Token_ELSE:
			top.ops = 2 // what is within one of these takes more of the stack
		case tree.Token_ASCII_59: // ;
			stack = []level{{}}
			top = &stack[0]
		case tree.Token_JOIN, tree.Token_UNION, tree.Token_EXCEPT, tree.Token_INTERSECT:
			top.chain++
		case tree.Token_IDENT, tree.Token_UIDENT, tree.Token_SCONST, tree.Token_USCONST, tree.Token_BCONST, tree.Token_XCONST, tree.Token_FCONST, tree.Token_ICONST, tree.Token_PARAM,
			tree.Token_ASCII_46, tree.Token_SQL_COMMENT, tree.Token_C_COMMENT: // .
		default:
			top.ops++
		}
		deepest = max(deepest, top.bottom+top.ops+top.chain)
	}
	return deepest
}

// parseTree makes the tree outside of the lock: that of a large text takes as long as parsing it.
func parseTree(text string) (*tree.ParseResult, error) {
	encoded, err := parsing(text, parser.ParseToProtobuf)
	if err != nil {
		return nil, err
	}
	result := &tree.ParseResult{}
	if err := proto.Unmarshal(encoded, result); err != nil {
		return nil, &SyntaxError{Code: "54001", Message: fmt.Sprintf("the statement is too complex: %v", err)}
	}
	return result, nil
}

func fingerprint(text string) (string, error) { return parsing(text, wasm.Fingerprint) }

func scanned(text string) (*tree.ScanResult, error) { return parsing(text, wasm.Scan) }

// said is what the parser says is wrong.
func said(err error) *SyntaxError {
	var syntax *SyntaxError
	var parse *parser.Error
	switch {
	case errors.As(err, &syntax):
		return syntax
	case errors.As(err, &parse):
		code := "42601"
		if strings.HasPrefix(parse.Message, "invalid byte sequence") {
			code = "22021"
		}
		return &SyntaxError{Code: code, Message: parse.Message, Position: parse.Cursorpos}
	}
	return &SyntaxError{Code: "0A000", Message: strings.TrimPrefix(err.Error(), "ERROR: ")}
}
