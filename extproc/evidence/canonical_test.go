package evidence

import (
	"errors"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/strict"
)

// decodeLoosely is decodeObject without the scanner that is tested against it.
func decodeLoosely(b []byte) (gate.Object, error) {
	o, err := strict.Object(b, strict.Unbounded)
	if err != nil {
		return nil, err
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
