package extproctest

// HostileTexts returns texts that mislead a person who reads them in a terminal, by what they do there. An agent, an approver or the
// writer of a journal can choose them for a name or a reason.
func HostileTexts() map[string]string {
	return map[string]string{
		"clears the screen":         "a\x1b[2J\x1b[Hb",
		"sets the title":            "a\x1b]0;title\x07b",
		"C1 instead of ESC":         "a\u009b31mb",
		"goes back":                 "approve\rreject",
		"a line of its own":         "a\nPASS: 9 records",
		"rubs out":                  "bad\b\b\bgood",
		"turns around":              "a\u202egnp.exe\u2066b\u2069",
		"no width":                  "pay\u200bpal\u200d\ufeff",
		"a separator of paragraphs": "a\u2029b\u2028c",
		"a soft hyphen":             "a\u00adb",
		"tags":                      "a\U000e0041\U000e0042b",
		"a filler that is a letter": "a\u3164b\u034fc",
		"a selector of variants":    "a\ufe0fb",
		"not UTF-8":                 "a\xff\xc3b",
		"half a surrogate":          "a\xed\xa0\x80b",
		"null":                      "a\x00b",
		"delete":                    "a\x7fb",
	}
}
