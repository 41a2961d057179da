package console

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// operationFilter selects decisions.
type operationFilter struct {
	Agent, Resource, Effect, Rule, Text string
	From, To                            time.Time // From ≤ time < To
	Before, After                       uint64    // records, of which one at most
	Size                                int
}

var effects = []string{gate.Allow.String(), gate.Deny.String(), gate.Ask.String()}

// readOperationFilter refuses what it does not know, as readFilter does.
func readOperationFilter(query string) (f operationFilter, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return f, errors.New("the query cannot be read")
	}
	f.Size = operationsOn
	for name, list := range values {
		text, err := oneValue(name, list)
		if err != nil {
			return f, err
		}
		switch name {
		case "agent":
			f.Agent = text
		case "resource":
			f.Resource = text
		case "rule":
			f.Rule = text
		case "text":
			f.Text = text
		case "effect":
			f.Effect = text
			if !slices.Contains(effects, text) {
				return f, fmt.Errorf("there is no effect %s; there are allow, deny and ask", quote(text))
			}
		case "from":
			f.From, err = readDate(name, text, false)
		case "to":
			f.To, err = readDate(name, text, true)
		case "before":
			f.Before, err = readSeq(name, text)
		case "after":
			f.After, err = readSeq(name, text)
		case "size":
			f.Size, err = readSize(text)
		default:
			err = fmt.Errorf("there is no parameter %s", quote(name))
		}
		if err != nil {
			return f, err
		}
	}
	if f.Before > 0 && f.After > 0 {
		return f, errors.New("before and after exclude each other")
	}
	return f, checkDates(f.From, f.To)
}

func oneValue(name string, list []string) (string, error) {
	switch {
	case len(list) != 1:
		return "", fmt.Errorf("the parameter %s is there %d times", quote(name), len(list))
	case len(list[0]) > 1024:
		return "", fmt.Errorf("the parameter %s has more than 1024 bytes", quote(name))
	default:
		return list[0], nil
	}
}

func readSize(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 500 {
		return 0, errors.New("size is not a number from 1 to 500")
	}
	return n, nil
}

func readSeq(name, text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s is not the number of a record", name)
	}
	return n, nil
}

// readDate reads a day, of UTC, or a time. end makes it the first instant that is not meant any more.
func readDate(name, text string, end bool) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		if end {
			t = t.AddDate(0, 0, 1)
		}
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%s is not a day such as 2026-03-01, or a time such as 2026-03-01T12:00:00Z", name)
	}
	if end {
		t = t.Add(1)
	}
	return t.UTC(), nil
}

func checkDates(from, to time.Time) error {
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return errors.New("it ends before it begins: from is later than to")
	}
	return nil
}
