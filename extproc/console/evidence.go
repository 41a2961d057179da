package console

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

const (
	maxRecords = 200
	proofWait  = 30 * time.Second
)

// operationView is one operation: what was decided and what came of it, its records, and the proof of one of them.
type operationView struct {
	Op      string
	Story   []*operation // its decisions, oldest first
	Answers []answerView // of people
	Records []Record
	More    bool
	Proof   *proofView
	Problem string
}

type proofView struct {
	Seq        uint64
	Checkpoint string   `json:"checkpoint"`
	Hashes     []string `json:"hashes"`
	Line       string   `json:"line"`
}

// records answers by itself where there are none, or where who may not see them.
func (c *Console) records(w http.ResponseWriter, r *http.Request, who *person) (list []Record, ok bool) {
	op := r.PathValue("op")
	if c.opt.Journal == nil || !plainID(op) {
		c.showProblem(w, r, noOperation)
		return nil, false
	}
	list, err := c.opt.Journal.Records(r.Context(), op, maxRecords+1)
	if err != nil {
		c.showProblem(w, r, c.unread(r.Context(), err))
		return nil, false
	}
	if len(list) == 0 {
		c.showProblem(w, r, noOperation)
		return nil, false
	}
	if !c.audits(who) && !c.ofARequest(r.Context(), list) {
		c.refuse(w, r, false, notAuditor(who))
		return nil, false
	}
	return list, true
}

// ofARequest reports whether the records name a request for approval that is there for people to see: it leads them here.
func (c *Console) ofARequest(ctx context.Context, list []Record) bool {
	seen := map[string]bool{}
	for _, r := range list {
		var body struct {
			Approval string `json:"approval"`
		}
		if json.Unmarshal(r.Body, &body) != nil || !plainID(body.Approval) || seen[body.Approval] {
			continue
		}
		seen[body.Approval] = true
		if _, err := c.opt.Desk.Get(ctx, body.Approval); err == nil {
			return true
		}
	}
	return false
}

var noOperation = problem{kind: "not-found", title: "Not found", status: http.StatusNotFound, detail: "This gateway's journal has no records of such an operation. Another gateway's may."}

// operationPage is GET /operations/{op}?prove=SEQ.
func (c *Console) operationPage(w http.ResponseWriter, r *http.Request, who *person) {
	list, ok := c.records(w, r, who)
	if !ok {
		return
	}
	v := operationView{Op: r.PathValue("op"), Records: list}
	if len(list) > maxRecords {
		v.Records, v.More = list[:maxRecords], true
	}
	v.read()
	if text := r.URL.Query().Get("prove"); text != "" {
		seq, err := seqOf(list, text)
		if err != nil {
			c.showProblem(w, r, noOperation)
			return
		}
		proof, err := c.prove(r, seq)
		if err == nil {
			v.Proof = &proofView{Seq: seq}
			err = json.Unmarshal(proof, v.Proof)
		}
		if err != nil {
			v.Proof = nil
			v.Problem = "There is no proof of record " + text + " yet. The journal's tree is signed every few seconds; try again then. (" + excerpt(err.Error()) + ")"
		}
	}
	here := "history"
	if c.audits(who) {
		here = "operations"
	}
	c.show(w, http.StatusOK, "operation-page", view{Title: "Operation", Here: here, Who: who, Data: &v})
}

// answerView is what somebody said of a request.
type answerView struct {
	Time     time.Time
	Decision string         `json:"decision"`
	Reason   string         `json:"reason"`
	Approver approval.Named `json:"approver"`
}

// read reads the story from the records. What cannot be read is among the records below it, as it is.
func (v *operationView) read() {
	for _, r := range v.Records {
		if r.Type == gate.OperationDecided {
			if o, err := readDecided(r); err == nil {
				v.Story = append(v.Story, o)
			}
		}
		a := answerView{Time: r.Time}
		if r.Type == approval.RecordDecided && json.Unmarshal(r.Body, &a) == nil {
			v.Answers = append(v.Answers, a)
		}
	}
	for _, o := range v.Story {
		for _, r := range v.Records {
			_ = o.note(r)
		}
	}
}

// Last is the decision that counts; nil where there is none.
func (v *operationView) Last() *operation {
	if len(v.Story) == 0 {
		return nil
	}
	return v.Story[len(v.Story)-1]
}

// seqOf is the record that text names, if it is one of the list: a proof reads the whole journal.
func seqOf(list []Record, text string) (uint64, error) {
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, err
	}
	for i := range list {
		if list[i].Seq == seq {
			return seq, nil
		}
	}
	return 0, errors.New("the operation has no such record")
}

// prove makes one proof at a time: each reads the whole journal.
func (c *Console) prove(r *http.Request, seq uint64) ([]byte, error) {
	leave, err := enter(r.Context(), c.proving, proofWait)
	if err != nil {
		return nil, err
	}
	defer leave()
	return c.opt.Journal.Prove(r.Context(), seq)
}

// proof is a record's proof as a file, for `countersign evidence` or any other verifier.
func (c *Console) proof(w http.ResponseWriter, r *http.Request, who *person) {
	list, ok := c.records(w, r, who)
	if !ok {
		return
	}
	seq, err := seqOf(list, r.PathValue("seq"))
	if err != nil {
		c.showProblem(w, r, noOperation)
		return
	}
	proof, err := c.prove(r, seq)
	if err != nil {
		c.showProblem(w, r, unavailable("There is no proof of this record yet. The journal's tree is signed every few seconds; try again then."))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Disposition", `attachment; filename="proof-`+strconv.FormatUint(seq, 10)+`.json"`)
	_, _ = w.Write(proof)
}
