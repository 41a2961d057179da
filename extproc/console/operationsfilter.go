package console

import (
	"cmp"
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

func readOperationFilter(query string) (f operationFilter, err error) {
	f.Size = operationsOn
	err = readQuery(query, parameters{
		"agent": into(&f.Agent, readText), "resource": into(&f.Resource, readText), "rule": into(&f.Rule, readText), "text": into(&f.Text, readText),
		"effect": into(&f.Effect, readEffect), "from": into(&f.From, readDay), "to": into(&f.To, readEnd),
		"before": into(&f.Before, readSeq), "after": into(&f.After, readSeq), "size": into(&f.Size, readSize),
	})
	if err == nil && f.Before > 0 && f.After > 0 {
		err = errors.New("before and after exclude each other")
	}
	return f, cmp.Or(err, checkDates(f.From, f.To))
}

// parameters are those that a query may have, and what reads a value of each.
type parameters map[string]func(name, text string) error

func into[T any](at *T, read func(name, text string) (T, error)) func(name, text string) error {
	return func(name, text string) (err error) {
		*at, err = read(name, text)
		return err
	}
}

// readQuery refuses whatever it does not know: a filter that was misspelled must not look like one that found everything. Each parameter
// is there once, and state as often as one likes.
func readQuery(query string, known parameters) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the query cannot be read")
	}
	for name, list := range values {
		read := known[name]
		switch {
		case read == nil:
			return fmt.Errorf("there is no parameter %s", quote(name))
		case len(list) != 1 && name != "state":
			return fmt.Errorf("the parameter %s is there %d times", quote(name), len(list))
		}
		for _, text := range list {
			if len(text) > 1024 {
				return fmt.Errorf("the parameter %s has more than 1024 bytes", quote(name))
			}
			if err := read(name, text); err != nil {
				return err
			}
		}
	}
	return nil
}

func readText(_, text string) (string, error) { return text, nil }

func readEffect(_, text string) (string, error) {
	if !slices.Contains(effects, text) {
		return "", fmt.Errorf("there is no effect %s; there are allow, deny and ask", quote(text))
	}
	return text, nil
}

func readSize(_, text string) (int, error) {
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

// readDay reads a day, of UTC, or a time.
func readDay(name, text string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%s is not a day such as 2026-03-01, or a time such as 2026-03-01T12:00:00Z", name)
}

// readEnd reads what readDay does, and returns the first instant that is not meant any more.
func readEnd(name, text string) (time.Time, error) {
	t, err := readDay(name, text)
	switch {
	case err != nil:
		return t, err
	case len(text) == len(time.DateOnly):
		return t.AddDate(0, 0, 1), nil
	default:
		return t.Add(1), nil
	}
}

func checkDates(from, to time.Time) error {
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return errors.New("it ends before it begins: from is later than to")
	}
	return nil
}
