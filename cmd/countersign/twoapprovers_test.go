package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/chromium"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// approver is somebody with a browser at the console of a gateway.
type approver struct {
	*askingGateway
	name string
	ctx  context.Context
}

// arrive has somebody sign in at their issuer, in a browser of their own.
func (g *askingGateway) arrive(name string) *approver {
	g.t.Helper()
	a := &approver{g, name, chromium.Start(g.t)}
	a.do("sign in", chromedp.Navigate("http://"+g.console+"/"), chromium.SendKeys(`input[name=name]`, name),
		chromium.SendKeys(`input[name=password]`, name+"-password\r"), chromium.WaitVisible("#queue"))
	return a
}

func (a *approver) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.ctx, 20*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		a.t.Fatalf("%s: %s: %v", a.name, what, err)
	}
}

func (a *approver) eval(expression string) any {
	ctx, cancel := context.WithTimeout(a.ctx, 20*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[any](expression))
	if err != nil {
		return err
	}
	return v
}

// sees waits until the page of the card says it.
func (a *approver) sees(in, text string) {
	a.t.Helper()
	extproctest.Await(a.t, a.name+" sees "+text, 20*time.Second, func(context.Context) error {
		if got := a.eval(fmt.Sprintf("document.querySelector(%q).innerText", in)); !strings.Contains(fmt.Sprint(got), text) {
			return fmt.Errorf("%s is %v", in, got)
		}
		return nil
	})
}

// opens shows the card, and returns when the page hears what happens. It notes there when the notice changed.
func (a *approver) opens(id string) {
	a.t.Helper()
	a.do("open the card", chromedp.Navigate("http://"+a.console+"/approvals/"+id), chromium.WaitVisible("#bar"))
	extproctest.Await(a.t, "the page listens", 20*time.Second, func(context.Context) error {
		if got := a.eval("document.readyState === 'complete' && document.body.dataset.updates >= 1"); got != true {
			return fmt.Errorf("it is %v", got)
		}
		return nil
	})
	a.eval("new MutationObserver(() => { window.told = Date.now(); }).observe(document.getElementById('notice'), { childList: true }); window.sameLife = true")
}

// answers is with the button.
func (a *approver) answers(button string) {
	a.t.Helper()
	a.do("press "+button, chromium.Click("#"+button), chromium.WaitVisible("#mine"))
	extproctest.Await(a.t, a.name+": the focus is on the notice", 20*time.Second, func(context.Context) error {
		if got := a.eval("document.activeElement.id"); got != "notice" {
			return fmt.Errorf("it is on %v", got)
		}
		return nil
	})
}

func (a *approver) shoots(name string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.ctx, 20*time.Second)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(a.t.ArtifactDir(), a.name+"-"+name+".png"), png, 0o600)
	}
	if err != nil {
		a.t.Error(err)
	}
}

// startForTwo has a refund need two people, and agents held for so long.
func startForTwo(t *testing.T, hold string) *askingGateway {
	t.Helper()
	g := &askingGateway{t: t, console: extproctest.FreeAddress(t)}
	policy := strings.NewReplacer(`"approvers": ["payments-oncall"],`, `"approvers": ["payments-oncall"], "quorum": 2,`, "u-alice", "u-nobody").Replace(refundPolicy)
	archive := fmt.Sprintf("%s-- config.yaml --\npeople: {issuer: \"${ISSUER}\", client_id: countersign-console}\napprovals: {hold: %s, console_url: \"http://%s\"}\n-- listen --\nconsole: %q\n",
		policy, hold, g.console, g.console)
	g.Gateway = story.Start(t, txtar.Parse([]byte(archive)), story.Options{})
	g.Issuer.AllowRedirect("countersign-console", "http://"+g.console+"/callback")
	return g
}

// TestTwoApproversSeeEachOther: bob and alice look at one request, each in a browser of their own. Each sees the other's answer as it
// comes; what the one who still types has typed stays; and both see what came of it, with a link to the operation that ran.
func TestTwoApproversSeeEachOther(t *testing.T) {
	t.Parallel()
	g := startForTwo(t, "60s")
	bob, alice := g.arrive("bob"), g.arrive("alice")
	r, answers := g.held(`{"amount": 10, "note": "for the broken lamp"}`, g.person("u-bob", "payments-oncall"))
	bob.opens(r.ID)
	alice.opens(r.ID)
	bob.sees("#wait", "waiting now")
	alice.do("begin to type", chromium.SendKeys("#reason", "I am not sure ab"))

	before := time.Now()
	bob.answers("approve")
	bob.sees("#notice", "You approved; one more person is needed.")
	alice.sees("#notice", "Approved by 1 person; one more person is needed.")
	for expression, want := range map[string]any{
		"document.getElementById('reason').value": "I am not sure ab", "document.activeElement.id": "reason", "window.sameLife": true,
	} {
		if got := alice.eval(expression); got != want {
			t.Errorf("alice's page: %s is %v, want %v", expression, got, want)
		}
	}
	alice.shoots("typing")
	if told, _ := alice.eval("window.told").(float64); time.UnixMilli(int64(told)).Sub(before) > 5*time.Second {
		t.Errorf("alice was told %v after bob began to answer", time.UnixMilli(int64(told)).Sub(before))
	}

	bob.eval("window.sameLife = true")
	alice.do("say yes after all", chromedp.SetValue("#reason", "the lamp is broken indeed"))
	alice.answers("approve")
	if a := <-answers; a.Status != 201 {
		t.Fatalf("the agent got %d %s", a.Status, a.Body)
	}
	for _, who := range []*approver{bob, alice} {
		who.sees("#notice", "Approved and done: 201 in ")
		who.sees("#notice", "the lamp is broken indeed")
		who.shoots("done")
	}
	if bob.eval("window.sameLife") != true {
		t.Error("bob's page was loaded anew")
	}
	bob.do("follow the link", chromium.Click("#notice a"), chromium.WaitVisible("section.record"))
	bob.sees("main", "operation.finished")
	bob.shoots("operation")
}

// TestApproversSeeWhatCameOfIt: however it ends.
func TestApproversSeeWhatCameOfIt(t *testing.T) {
	t.Parallel()
	g := startForTwo(t, "200ms")
	bob, alice := g.arrive("bob"), g.arrive("alice")
	token := g.person("u-bob", "payments-oncall")
	ask := func(amount string) string {
		t.Helper()
		body := `{"amount": ` + amount + `}`
		if a := g.refund(body); a.Problem() != "approval-pending" {
			t.Fatalf("%s: %d %s", body, a.Status, a.Body)
		}
		r := g.pending(token)
		bob.opens(r.ID)
		alice.opens(r.ID)
		return body
	}
	both := func() {
		t.Helper()
		bob.answers("approve")
		alice.sees("#notice", "one more person is needed")
		alice.answers("approve")
	}
	each := func(text string) {
		t.Helper()
		bob.sees("#notice", text)
		alice.sees("#notice", text)
	}

	body := ask("1")
	bob.sees("#wait", "has left; will come again")
	both()
	each("Approved; it runs when the agent comes again, within 14 minutes.")
	bob.shoots("approved")
	if a := g.refund(body); a.Status != 201 {
		t.Fatalf("the agent came again: %d %s", a.Status, a.Body)
	}
	each("Approved and done: 201 in ")

	body = ask("2")
	both()
	g.Target.Stop()
	if a := g.refund(body); a.Status < 500 {
		t.Fatalf("the target is down: %d %s", a.Status, a.Body)
	}
	each("The target did not answer, or broke off")
	bob.shoots("target-down")
	g.Target.Start()

	ask("3")
	alice.do("type", chromium.SendKeys("#reason", "half a tho"))
	bob.do("reject", chromium.SendKeys("#reason", "the customer was refunded yesterday"))
	bob.answers("reject")
	each("Rejected. It does not run, and the agent is told why.")
	each("the customer was refunded yesterday")
	alice.sees("#bar", "This request is closed.")
	alice.sees("#bar", "What you have typed was not sent: half a tho")
	alice.shoots("closed-while-typing")
}
