package xds

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// Place is where in the file a message stands.
type Place struct {
	node *yaml.Node // nil when the file does not say it
	line int
}

// At follows keys and indices from p. Where the file has no such thing it is the last place that it has.
func (p Place) At(steps ...any) Place {
	for _, step := range steps {
		next, ok := p.step(step)
		if !ok {
			return p
		}
		p = next
	}
	return p
}

func (p Place) step(step any) (Place, bool) {
	n := p.node
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil {
		return p, false
	}
	switch step := step.(type) {
	case int:
		if n.Kind == yaml.SequenceNode && step < len(n.Content) {
			return Place{n.Content[step], n.Content[step].Line}, true
		}
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if key := n.Content[i]; key.Value == step || key.Value == camel(step) {
				return Place{n.Content[i+1], key.Line}, true
			}
		}
	}
	return p, false
}

// camel is the other spelling that JSON has for a field: max_retries, maxRetries.
func camel(name string) string {
	var out strings.Builder
	for i, part := range strings.Split(name, "_") {
		if i > 0 && part != "" {
			part = strings.ToUpper(part[:1]) + part[1:]
		}
		out.WriteString(part)
	}
	return out.String()
}
