package mask

import "bytes"

// next is the value at the front of a line, how many bytes it takes there, and whether it is NULL; -1 where the line is not as the server writes
// it. The value is good until the next call.
func (c *copying) next(line []byte) (value []byte, end int, null bool) {
	if rest, ok := bytes.CutPrefix(line, c.null); ok && (len(rest) == 0 || rest[0] == c.delimiter) {
		return nil, len(c.null), true
	}
	if !c.csv {
		return c.escaped(line)
	}
	if len(line) > 0 && line[0] == c.quote {
		return c.enclosed(line)
	}
	if end = bytes.IndexByte(line, c.delimiter); end < 0 {
		end = len(line)
	}
	return line[:end], end, false
}

// letters are the escapes of COPY's text format.
var letters = map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t', 'v': '\v'}

// escaped reads a value of the text format.
func (c *copying) escaped(line []byte) (value []byte, end int, null bool) {
	first := bytes.IndexByte(line, '\\')
	if end = bytes.IndexByte(line, c.delimiter); end < 0 {
		end = len(line)
	}
	if first < 0 || first > end {
		return line[:end], end, false
	}
	buf := c.value[:0]
	defer func() { c.value = buf }()
	for i := 0; i < len(line); i++ {
		switch b := line[i]; b {
		case c.delimiter:
			return buf, i, false
		case '\\':
			if i++; i == len(line) {
				return nil, -1, false
			}
			if is, ok := letters[line[i]]; ok {
				buf = append(buf, is)
			} else {
				buf = append(buf, line[i])
			}
		default:
			buf = append(buf, b)
		}
	}
	return buf, len(line), false
}

// enclosed reads a value of the CSV format that has quotes around it.
func (c *copying) enclosed(line []byte) (value []byte, end int, null bool) {
	buf := c.value[:0]
	defer func() { c.value = buf }()
	for i := 1; i < len(line); i++ {
		b := line[i]
		if b == c.escape && i+1 < len(line) && (line[i+1] == c.quote || line[i+1] == c.escape) {
			i++
			buf = append(buf, line[i])
			continue
		}
		if b == c.quote {
			return buf, i + 1, false
		}
		buf = append(buf, b)
	}
	return nil, -1, false
}

// append appends a text that is not NULL, as the server would: in quotes where it has to be, or is to be.
func (c *copying) append(b, text []byte, quoted bool) []byte {
	if !c.csv {
		for _, x := range text {
			switch is := bytes.IndexByte([]byte("\b\f\n\r\t\v"), x); {
			case is >= 0 && x != c.delimiter:
				b = append(b, '\\', "bfnrtv"[is])
			case x == '\\' || x == c.delimiter:
				b = append(b, '\\', x)
			default:
				b = append(b, x)
			}
		}
		return b
	}
	special := quoted || bytes.Equal(text, c.null) || string(text) == `\.` || len(text) > 0 && (text[0] == ' ' || text[len(text)-1] == ' ')
	for _, x := range text {
		special = special || x == c.delimiter || x == c.quote || x == '\n' || x == '\r'
	}
	if !special {
		return append(b, text...)
	}
	b = append(b, c.quote)
	for _, x := range text {
		if x == c.quote || x == c.escape {
			b = append(b, c.escape)
		}
		b = append(b, x)
	}
	return append(b, c.quote)
}
