package console

import (
	"encoding/csv"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

var csvHeader = []string{
	"time", "record", "operation", "effect", "agent_name", "agent_subject", "agent_issuer", "on_behalf_of_name", "on_behalf_of_subject", "on_behalf_of_issuer",
	"resource", "protocol", "verb", "target", "rules", "reasons", "problem", "approval", "approved_by", "result", "status", "seconds", "ended",
}

// operationsCSV is GET /operations.csv: all that the filter selects, newest first, page by page as it is read, so that no more than
// one page is in memory.
func (c *Console) operationsCSV(w http.ResponseWriter, r *http.Request, who *person) {
	f, err := readOperationFilter(formQuery(r).Encode())
	if err != nil || f.Before > 0 || f.After > 0 {
		c.showProblem(w, r, unreadable("The filter cannot be read. A download has all that the filter selects."))
		return
	}
	f.Size = 500
	p, err := c.operations(r.Context(), f)
	if err != nil {
		c.showProblem(w, r, c.unread(r.Context(), err))
		return
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
	w.Header().Set("Content-Disposition", `attachment; filename="operations.csv"`)
	control := http.NewResponseController(w)
	out := csv.NewWriter(w)
	out.UseCRLF = true // RFC 4180
	err = out.Write(csvHeader)
	for err == nil {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout + maxLookTime + waitToLook))
		for _, o := range p.Rows {
			_ = out.Write(csvRow(o)) // Flush has its error
		}
		out.Flush()
		if err = out.Error(); err == nil {
			err = control.Flush()
		}
		if err != nil || p.Next() == 0 {
			break
		}
		if !c.sessions.live(who.session, c.now()) {
			panic(http.ErrAbortHandler)
		}
		f.Before = p.Next()
		p, err = c.operations(r.Context(), f)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the connection breaks off: what was sent must not look like all there is
	}
}

func csvRow(o *operation) []string {
	party := func(p *approval.Named) []string {
		if p == nil {
			return []string{"", "", ""}
		}
		return []string{p.Name, p.Subject, p.Issuer}
	}
	row := []string{o.Time.UTC().Format(time.RFC3339Nano), strconv.FormatUint(o.Seq, 10), o.Op, o.Effect}
	row = append(append(row, party(o.Agent())...), party(o.For())...)
	people := make([]string, len(o.By))
	for i, by := range o.By {
		people[i] = label(by.Visible())
	}
	row = append(row, o.Resource, o.Protocol, o.Verb, o.Target, strings.Join(o.Rules, "; "), strings.Join(o.Reasons, "; "), o.Problem, o.Approval, strings.Join(people, "; "))
	if e := o.End; e != nil {
		row = append(row, e.Result, strconv.Itoa(e.Status), strconv.FormatFloat(e.Duration, 'f', -1, 64), o.Ended.Time.UTC().Format(time.RFC3339Nano))
	} else {
		row = append(row, "", "", "", "")
	}
	for i := range row {
		row[i] = cell(row[i])
	}
	return row
}

// cell is a text that no spreadsheet takes for a formula, with nothing in it that could mislead: as a card shows it.
func cell(text string) string {
	t := approval.Visible(text).Text
	if t != "" && strings.ContainsAny(t[:1], "=+-@") {
		return "'" + t
	}
	return t
}
