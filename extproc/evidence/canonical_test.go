package evidence

import (
	"bytes"
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/countersign/countersign/extproc/gate"
)

// decodeLoosely is decodeObject without the scanner that is tested against it.
func decodeLoosely(b []byte) (gate.Object, error) {
	d := jsontext.NewDecoder(bytes.NewReader(b))
	v, err := decodeValue(d)
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows")
	}
	o, ok := v.(gate.Object)
	if !ok {
		return nil, errors.New("no object")
	}
	if depth(o) > maxDepth {
		return nil, errors.New("too deep")
	}
	return o, nil
}

func depth(v any) int {
	deepest := 0
	switch v := v.(type) {
	case gate.Object:
		for _, m := range v {
			deepest = max(deepest, depth(m.Value))
		}
	case []any:
		for _, e := range v {
			deepest = max(deepest, depth(e))
		}
	}
	return deepest + 1
}
