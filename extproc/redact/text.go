package redact

import (
	"bytes"
	"regexp"
	"strings"
	"unicode/utf8"
)

// lineReader cuts what comes into lines. A line ends with LF, and in an event stream with CR or CRLF too.
type lineReader struct {
	pending  []byte
	most     int
	stated   int  // the most that a line may have once it is redacted; refusals name it
	returns  bool // CR ends a line
	skipFeed bool // the last line ended with CR: an LF that follows belongs to it
}

// read calls line for each complete line, without its end.
func (r *lineReader) read(chunk []byte, line func([]byte) error) error {
	data, joined := chunk, len(r.pending) > 0
	looked := 0
	if joined {
		looked = len(r.pending)
		r.pending = append(r.pending, chunk...)
		data = r.pending
	}
	used := 0
	for {
		if r.skipFeed && used < len(data) {
			r.skipFeed = false
			if data[used] == '\n' {
				used++
			}
		}
		end := r.lineEnd(data, max(used, looked))
		if end < 0 && len(data)-used > r.most || end-used > r.most {
			return withheld("a line of more than %d bytes", r.stated)
		}
		if end < 0 {
			break
		}
		r.skipFeed = data[end] == '\r'
		if err := line(data[used:end]); err != nil {
			return err
		}
		used = end + 1
	}
	if !joined || used > 0 {
		r.pending = append(r.pending[:0], data[used:]...)
	}
	return nil
}

func (r *lineReader) lineEnd(data []byte, from int) int {
	n := bytes.IndexByte(data[from:], '\n')
	if r.returns {
		rest := data[from:]
		if n >= 0 {
			rest = rest[:n]
		}
		if c := bytes.IndexByte(rest, '\r'); c >= 0 {
			n = c
		}
	}
	if n < 0 {
		return -1
	}
	return from + n
}

// checkText refuses a line that is not UTF-8 or has NUL bytes: other readers may see other text in it than the detectors do.
func checkText(line []byte) error {
	if bytes.IndexByte(line, 0) >= 0 || !utf8.Valid(line) {
		return withheld("the text is not UTF-8")
	}
	return nil
}

// lines redacts text line by line, with detectors. Of values that span lines it finds only private keys.
type lines struct {
	plan    *Plan
	finder  finder
	tallies []int64
	out     []byte
	reader  lineReader
	markup  bool
	most    int
	taken   func([]byte)
	inKey   bool // in an armored private key that began on an earlier line
	begun   bool // a line has come
	plain   []byte
}

func newLines(p *Plan, opts Options, markup bool) *lines {
	return &lines{
		plan: p, tallies: make([]int64, len(p.names)), markup: markup, most: opts.MaxLine, taken: opts.taken,
		reader: lineReader{most: 2 * opts.MaxLine, stated: opts.MaxLine},
	}
}

func (l *lines) output() *[]byte { return &l.out }
func (l *lines) counts() []int64 { return l.tallies }

func (l *lines) write(chunk []byte) error {
	return l.reader.read(chunk, func(line []byte) error { return l.line(line, "\n") })
}

func (l *lines) end() error {
	if len(l.reader.pending) == 0 {
		return nil
	}
	return l.line(l.reader.pending, "")
}

func (l *lines) line(line []byte, end string) error {
	from := len(l.out)
	if err := l.rewrite(line, end); err != nil {
		return err
	}
	if len(l.out)-from > l.most+len(end) {
		l.out = l.out[:from]
		return withheld("a line of more than %d bytes", l.most)
	}
	return nil
}

func (l *lines) rewrite(line []byte, end string) error {
	if err := checkText(line); err != nil {
		return err
	}
	original := line
	if l.markup && !l.begun {
		if err := checkDeclaration(line); err != nil {
			return err
		}
	}
	l.begun = true
	if l.markup {
		l.plain = appendUnescaped(l.plain[:0], line)
		line = l.plain
	}
	if l.inKey {
		to, ended := armorEnd(line, 0)
		if !ended {
			return nil
		}
		l.inKey = false
		line = line[to:]
		original = line
	}
	line, spans := l.finder.findText(line, l.plan.on)
	if len(spans) == 0 {
		l.out = append(append(l.out, original...), end...)
		return nil
	}
	for _, s := range spans {
		if l.taken != nil {
			l.taken(bytes.Clone(line[s.from:s.to]))
		}
	}
	l.plan.strongest(spans, l.tallies)
	l.out = l.plan.appendReplaced(l.out, line, spans)
	if spans[len(spans)-1].open {
		l.inKey = true
		return nil // the line goes on after the end of the key
	}
	l.out = append(l.out, end...)
	return nil
}

// xmlEncoding is the charset in an XML declaration. Readers use it if the Content-Type names none.
var xmlEncoding = regexp.MustCompile(`(?i)encoding\s*=\s*["']([^"']*)["']`)

// checkDeclaration refuses XML whose first line names a charset that may not be a superset of ASCII.
func checkDeclaration(line []byte) error {
	if !bytes.HasPrefix(line, []byte("<?xml")) {
		return nil
	}
	if !bytes.Contains(line, []byte("?>")) {
		return withheld("the XML declaration goes over several lines")
	}
	said := xmlEncoding.FindSubmatch(line)
	if said == nil {
		return nil
	}
	name := strings.ToLower(string(said[1]))
	for _, known := range []string{"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-", "latin1", "windows-125"} {
		if strings.HasPrefix(name, known) {
			return nil
		}
	}
	return withheld("charset %.40q cannot be redacted", name)
}

// references are HTML's names of characters that detectors look for.
var references = map[string]byte{
	"commat": '@', "period": '.', "lowbar": '_', "plus": '+', "colon": ':', "sol": '/', "equals": '=', "percnt": '%', "num": '#',
}

// appendUnescaped appends line with references (&#64;) decoded if that changes nothing for a reader of the markup. References to
// the five characters that markup is made of stay.
func appendUnescaped(dst, line []byte) []byte {
	for {
		i := bytes.IndexByte(line, '&')
		if i < 0 {
			return append(dst, line...)
		}
		dst = append(dst, line[:i]...)
		line = line[i:]
		c, n := reference(line)
		if n == 0 {
			c, n = '&', 1
		}
		dst = append(dst, c)
		line = line[n:]
	}
}

// reference reads the reference at the beginning of b, if its character is plain text in markup.
func reference(b []byte) (c byte, n int) {
	end := 1
	for end < len(b) && end < 16 && (b[end] == '#' || wordClass[b[end]] != 0) {
		end++
	}
	name := string(b[1:end])
	if end < len(b) && b[end] == ';' {
		end++
		if c, ok := references[name]; ok {
			return c, end
		}
	}
	if len(name) < 2 || name[0] != '#' {
		return 0, 0
	}
	code := 0
	hex := name[1] == 'x' || name[1] == 'X'
	for _, d := range []byte(name[1:]) {
		switch {
		case hex && (d == 'x' || d == 'X'):
		case hex && hexValue(d) >= 0:
			code = code*16 + int(hexValue(d))
		case !hex && d >= '0' && d <= '9':
			code = code*10 + int(d-'0')
		default:
			return 0, 0
		}
		if code > 0x7E {
			return 0, 0
		}
	}
	if code < ' ' || code == '<' || code == '>' || code == '&' || code == '"' || code == '\'' {
		return 0, 0
	}
	return byte(code), end
}
