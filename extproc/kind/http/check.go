package http

import (
	"fmt"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/policy"
)

// check reads the credential that the target is to be sent.
func check(c config.Resource) error {
	r := c.(*config.HTTP) //nolint:forcetypeassert // made by config.KindHTTP
	if r.Credential == nil {
		return nil
	}
	if _, err := newCredential(r.Credential).Field(); err != nil {
		return fmt.Errorf("credential: %w", err)
	}
	return nil
}

func notes(c config.Resource, p *policy.Set) (list []string) {
	r := c.(*config.HTTP) //nolint:forcetypeassert // made by config.KindHTTP
	if r.PassesAnswers() && p.MayRedact(r.Policy) {
		list = append(list, "its rules may redact, and its answers do not come by here, so that such a ruling refuses: set response: inspect and attach: ext_proc")
	}
	if r.Body == "stream" && p.LooksAt(r.Policy, web.BodyMembers...) {
		list = append(list, "its rules read the body, and with body: stream there is none to see")
	}
	return list
}
