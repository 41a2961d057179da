package console

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/approval"
)

// brief is what a list shows of a card, read once.
type brief struct {
	summaries []approval.Text
	rows      []briefRow     // the values that it carries first; after them its target and how it was sent
	index     map[string]int // of rows, by path
	carried   int
	size      int // of the card
}

type briefRow struct {
	path   string
	value  approval.Text
	opaque bool // it tells a person little
}

// briefs are those of the cards that were listed last, by the digest of the card, which never changes.
type briefs struct {
	mu   sync.Mutex
	list map[string]*brief
	size int
}

const maxBriefs = 64 << 20 // bytes of cards

func (b *briefs) init() { b.list = map[string]*brief{} }

// of is the brief of a request's card. A card that cannot be read has none of it: the request's own page says so.
func (b *briefs) of(r *approval.Request) *brief {
	b.mu.Lock()
	known := b.list[r.CardDigest]
	b.mu.Unlock()
	if known != nil {
		return known
	}
	n := readBrief(r.Card)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.list[r.CardDigest] != nil || n.size > maxBriefs {
		return n
	}
	for digest, x := range b.list {
		if b.size+n.size <= maxBriefs {
			break
		}
		delete(b.list, digest)
		b.size -= x.size
	}
	b.list[r.CardDigest] = n
	b.size += n.size
	return n
}

func readBrief(text []byte) *brief {
	card, err := approval.ReadCard(text)
	if err != nil {
		return &brief{}
	}
	detail := card.What.Detail
	b := &brief{summaries: card.Summaries(), carried: min(card.What.First, len(detail)), size: len(text)}
	for _, r := range detail {
		b.rows = append(b.rows, briefRow{r.Path.Text, typed(r), opaque.MatchString(r.Value.Text)})
	}
	b.rows = slices.Insert(b.rows, b.carried, briefRow{path: "target", value: card.What.Target})
	b.index = make(map[string]int, len(b.rows))
	for n := len(b.rows) - 1; n >= 0; n-- {
		b.index[b.rows[n].path] = n
	}
	return b
}

// opaque values are digests and ids.
var opaque = regexp.MustCompile(`^"?[0-9a-fA-F-]{16,}"?$`)

func (b *brief) at(path string) (value approval.Text, there bool) {
	n, there := b.index[path]
	if there {
		value = b.rows[n].value
	}
	return value, there
}

// shownValue is a value in a list, cut to a line.
type shownValue struct {
	Path  approval.Text
	Value approval.Text
	None  bool // the request has no such value

	path string // the whole
}

const (
	listValues  = 3  // of a request in a list
	headWidth   = 80 // characters of a summary or target there
	valueWidth  = 40 // and of a value: what fits a phone in a line
	opaqueWidth = 12 // and of a digest
)

// tellApart chooses what is shown of similar requests, so that no two look alike: what heads them, the values in which they differ,
// or the first of them where none does. Somebody may want two of them to look alike. So what is cut is shown where it differs, and
// requests of which all that is shown is the same are told apart by their ids.
func tellApart(items []*item) {
	heads := make([]approval.Text, len(items))
	for n, i := range items {
		i.InWords = len(i.brief.summaries) > 0
		i.Heads = slices.Clone(i.brief.summaries[:min(len(i.brief.summaries), listValues)])
		if !i.InWords {
			i.Heads = []approval.Text{approval.Visible(i.Target)}
		}
		heads[n] = i.Heads[0]
	}
	for n, text := range cutApart(heads, headWidth) {
		items[n].Heads[0] = text
		for m := range items[n].Heads[1:] {
			items[n].Heads[m+1] = cut(items[n].Heads[m+1], 0, headWidth)
		}
	}
	alike := classesOf(items, (*item).looks)
	for _, class := range alike {
		choose(class, listValues)
	}
	poor := items
	if len(alike) == len(items) { // policy's words say it
		poor = slices.DeleteFunc(slices.Clone(items), func(i *item) bool { return i.InWords })
	}
	fill(poor, differing(items))
	for _, class := range classesOf(items, (*item).looks) {
		if len(class) > 1 {
			showIDs(class)
		}
	}
}

// showIDs shows the ends of ids, which are of chance.
func showIDs(items []*item) {
	for _, i := range items {
		i.ID = i.Request.ID[max(0, len(i.Request.ID)-8):]
	}
}

// looks is all that is shown of a request so far.
func (i *item) looks() string {
	var b strings.Builder
	for _, t := range i.Heads {
		b.WriteString(t.Text + "\x01")
	}
	for _, v := range i.Values {
		b.WriteString("\x00" + v.Path.Text + "\x00" + v.Value.Text + "\x00" + strconv.FormatBool(v.None))
	}
	return b.String()
}

// classesOf are the items with one key each, in their order.
func classesOf(items []*item, key func(*item) string) (classes [][]*item) {
	at := map[string]int{}
	for _, i := range items {
		k := key(i)
		n, ok := at[k]
		if !ok {
			n = len(classes)
			at[k] = n
			classes = append(classes, nil)
		}
		classes[n] = append(classes[n], i)
	}
	return classes
}

// choose shows of requests that look alike so far the value that splits them the most, and so on in what is alike then.
func choose(items []*item, left int) {
	if len(items) < 2 || left == 0 {
		return
	}
	best := split(items)
	if best == "" {
		return
	}
	show(items, best)
	for _, class := range classesOf(items, func(i *item) string {
		v, there := i.brief.at(best)
		return strconv.FormatBool(there) + v.Text
	}) {
		choose(class, left-1)
	}
}

// pathCount is where values are, and how many different ones.
type pathCount struct {
	path    string
	carried bool
	opaque  bool // all of them
	there   int
	values  map[string]bool
}

// rank is how little a person is told by the values: those that an operation carries say the most.
func (p *pathCount) rank() int {
	switch {
	case !p.carried:
		return 2
	case p.opaque:
		return 1
	}
	return 0
}

// paths counts the values of all items, by rank and in the order of the cards.
func paths(items []*item) (list []*pathCount) {
	at := map[string]*pathCount{}
	for _, i := range items {
		for n, row := range i.brief.rows {
			p := at[row.path]
			if p == nil {
				p = &pathCount{path: row.path, opaque: true, values: map[string]bool{}}
				at[row.path] = p
				list = append(list, p)
			}
			p.carried = p.carried || n < i.brief.carried
			p.opaque = p.opaque && row.opaque
			p.there++
			p.values[row.value.Text] = true
		}
	}
	slices.SortStableFunc(list, func(a, b *pathCount) int { return a.rank() - b.rank() })
	return list
}

// kinds is how many different requests the values at a path make of n.
func (p *pathCount) kinds(n int) int {
	if p.there < n {
		return len(p.values) + 1
	}
	return len(p.values)
}

// split is the path that splits items the most, of those of the first rank that has one.
func split(items []*item) string {
	var best *pathCount
	for _, p := range paths(items) {
		n := p.kinds(len(items))
		if n < 2 || best != nil && (best.rank() < p.rank() || n <= best.kinds(len(items))) {
			continue
		}
		best = p
	}
	if best == nil {
		return ""
	}
	return best.path
}

// differing are the paths of carried values that are not the same in all items.
func differing(items []*item) (list []string) {
	for _, p := range paths(items) {
		if p.carried && p.kinds(len(items)) > 1 {
			if list = append(list, p.path); len(list) == listValues {
				break
			}
		}
	}
	return list
}

// show shows the values at a path where there is room for them, so that different ones look different.
func show(items []*item, path string) {
	values := make([]approval.Text, len(items))
	width := opaqueWidth
	for n, i := range items {
		values[n], _ = i.brief.at(path)
		if !opaque.MatchString(values[n].Text) {
			width = valueWidth
		}
	}
	for n, text := range cutApart(values, width) {
		i := items[n]
		if _, there := i.brief.at(path); len(i.Values) < listValues && !slices.ContainsFunc(i.Values, func(v shownValue) bool { return v.path == path }) {
			i.Values = append(i.Values, shownValue{approval.Text{Text: shortPath(path)}, text, !there, path})
		}
	}
}

// fill adds the usual values to what is shown, or the first ones where there is nothing; and puts all in the order of the card, with
// those last that tell a person little.
func fill(items []*item, usual []string) {
	for _, path := range usual {
		show(items, path)
	}
	for _, i := range items {
		if len(i.Values) == 0 {
			for _, row := range i.brief.rows[:min(i.brief.carried, listValues)] {
				show([]*item{i}, row.path)
			}
		}
		slices.SortStableFunc(i.Values, func(a, b shownValue) int {
			m, n := i.brief.index[a.path], i.brief.index[b.path]
			if len(i.brief.rows) > 0 && i.brief.rows[m].opaque != i.brief.rows[n].opaque {
				if i.brief.rows[m].opaque {
					return 1
				}
				return -1
			}
			return m - n
		})
	}
}

// shortPath is the end of a path that is too long for a list.
func shortPath(path string) string {
	path = strings.TrimPrefix(path, "body.")
	if n := utf8.RuneCountInString(path); n > valueWidth {
		return "…" + string([]rune(path)[n-valueWidth+1:])
	}
	return path
}

// cutApart cuts texts to a width. One that would look like another is shown where it differs from it.
func cutApart(texts []approval.Text, width int) []approval.Text {
	sorted := make([]string, len(texts))
	for n, t := range texts {
		sorted[n] = t.Text
	}
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	from := map[string]int{} // how much it has in common with the one that is most like it
	for n := 1; n < len(sorted); n++ {
		a, b := sorted[n-1], sorted[n]
		same := common(a, b)
		from[a], from[b] = max(from[a], same), same
	}
	out := make([]approval.Text, len(texts))
	for n, t := range texts {
		out[n] = cut(t, from[t.Text], width)
	}
	return out
}

// common is how many characters two texts begin with alike.
func common(a, b string) (n int) {
	for at, r := range a {
		if !strings.HasPrefix(b[at:], string(r)) {
			break
		}
		n++
	}
	return n
}

// cut is a text in so many characters, the one after so many among them. What is left out is three dots, which no shown text has of
// its own; what stands for something invisible is left out as a whole.
func cut(t approval.Text, at, width int) approval.Text {
	total := utf8.RuneCountInString(t.Text)
	if total <= width {
		return t
	}
	pieces := piecesOf(t)
	lead := width / 4
	var b strings.Builder
	room, seen := width-1, 0
	if at >= width-1 { // it differs further down
		for len(pieces) > 0 && room-pieces[0].size > width-1-lead {
			b.WriteString(pieces[0].text)
			room, seen = room-pieces[0].size, seen+pieces[0].size
			pieces = pieces[1:]
		}
		from := min(at-lead, total-room+1)
		for len(pieces) > 0 && seen+pieces[0].size <= from {
			seen += pieces[0].size
			pieces = pieces[1:]
		}
		b.WriteString("…")
		room--
	}
	for len(pieces) > 0 && pieces[0].size <= room {
		b.WriteString(pieces[0].text)
		room -= pieces[0].size
		pieces = pieces[1:]
	}
	if len(pieces) > 0 {
		b.WriteString("…")
	}
	t.Text = b.String()
	return t
}

// piece is a part of a text that is shown whole or not at all.
type piece struct {
	text string
	size int
}

func piecesOf(t approval.Text) (list []piece) {
	for _, p := range partsOf(t) {
		if p.Mark {
			list = append(list, piece{p.Text, utf8.RuneCountInString(p.Text)})
			continue
		}
		for _, r := range p.Text {
			list = append(list, piece{string(r), 1})
		}
	}
	return list
}
