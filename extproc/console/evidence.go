package console

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	maxRecords = 200
	proofWait  = 30 * time.Second
)

// operationView is one operation's records, and the proof of one of them.
type operationView struct {
	Op      string
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

// records answers by itself where there are none.
func (c *Console) records(w http.ResponseWriter, r *http.Request) (list []Record, ok bool) {
	op := r.PathValue("op")
	if c.opt.Journal == nil || !plainID(op) {
		c.showProblem(w, r, noOperation)
		return nil, false
	}
	list, err := c.opt.Journal.Records(r.Context(), op, maxRecords+1)
	if err != nil {
		c.log.Error("the console could not read the journal", "operation", op, "error", err)
		c.showProblem(w, r, unavailable("The journal cannot be read at the moment. Try again later."))
		return nil, false
	}
	if len(list) == 0 {
		c.showProblem(w, r, noOperation)
		return nil, false
	}
	return list, true
}

var noOperation = problem{kind: "not-found", title: "Not found", status: http.StatusNotFound, detail: "This gateway's journal has no records of such an operation. Another gateway's may."}

// operationPage is GET /operations/{op}?prove=SEQ.
func (c *Console) operationPage(w http.ResponseWriter, r *http.Request, who *person) {
	list, ok := c.records(w, r)
	if !ok {
		return
	}
	v := operationView{Op: r.PathValue("op"), Records: list}
	if len(list) > maxRecords {
		v.Records, v.More = list[:maxRecords], true
	}
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
	c.show(w, http.StatusOK, "operation-page", view{Title: "Operation", Here: "history", Who: who, Data: v})
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
	select {
	case c.proving <- struct{}{}:
		defer func() { <-c.proving }()
	case <-time.After(proofWait):
		return nil, errors.New("others are being proved")
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return c.opt.Journal.Prove(r.Context(), seq)
}

// proof is a record's proof as a file, for `countersign evidence` or any other verifier.
func (c *Console) proof(w http.ResponseWriter, r *http.Request, _ *person) {
	list, ok := c.records(w, r)
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
