package statement

import "slices"

// best leaves of several functions that fit those that PostgreSQL prefers (func_select_candidate): more than one where it would say that the call is
// ambiguous, or where its last rules decide, which are not followed here.
func (a *analyzer) best(fit []*Routine, types []uint32) []*Routine {
	in := make([]uint32, len(types))
	for i, t := range types {
		in[i] = a.c.base(t)
	}
	count := func(good func(i int, to uint32) bool) {
		most := -1
		var keep []*Routine
		for _, r := range fit {
			n := 0
			for i := range in {
				if in[i] != typeUnknown && good(i, r.arg(i)) {
					n++
				}
			}
			if n > most {
				most, keep = n, nil
			}
			if n == most {
				keep = append(keep, r)
			}
		}
		fit = keep
	}
	count(func(i int, to uint32) bool { return to == in[i] })
	if len(fit) > 1 {
		count(func(i int, to uint32) bool { return to == in[i] || a.preferred(to, a.category(in[i])) })
	}
	if len(fit) > 1 && slices.Contains(in, typeUnknown) {
		fit = a.byCategory(fit, in)
	}
	return fit
}

func (a *analyzer) category(t uint32) byte {
	if d := a.c.Types[t]; d != nil {
		return d.Category
	}
	return 0
}

func (a *analyzer) preferred(t uint32, category byte) bool {
	d := a.c.Types[t]
	return d != nil && d.Preferred && d.Category == category
}

// byCategory decides for arguments that are literals: strings where a candidate takes one, else what all candidates take, and the preferred type of it.
func (a *analyzer) byCategory(fit []*Routine, in []uint32) []*Routine {
	for i, t := range in {
		if t != typeUnknown {
			continue
		}
		var category byte
		for j, r := range fit {
			switch c := a.category(r.arg(i)); {
			case c == 'S':
				category = 'S'
			case j == 0:
				category = c
			case category != 'S' && c != category:
				category = 0
			}
		}
		if category == 0 {
			return fit
		}
		var keep, better []*Routine
		for _, r := range fit {
			if a.category(r.arg(i)) == category {
				keep = append(keep, r)
				if a.preferred(r.arg(i), category) {
					better = append(better, r)
				}
			}
		}
		if better != nil {
			keep = better
		}
		if keep != nil {
			fit = keep
		}
	}
	return fit
}
