package rules.personal_data_test

import data.rules.personal_data

principal(groups) := {"principal": {"groups": groups, "roles": []}}

names(set) := {name | some what in set; some key in ["path", "detect"]; name := what[key]}

test_personal_data_is_redacted if {
	redacted := names(personal_data.redact) with input as principal(["clerks"])
	{"$..ssn", "$..dateOfBirth", "email", "card", "$..password", "key"} - redacted == set()
}

test_a_reader_of_personal_data_sees_it if {
	redacted := names(personal_data.redact) with input as principal(["pii-reader"])
	redacted & {"$..ssn", "$..dateOfBirth", "email", "card", "iban", "ssn"} == set()
}

test_nobody_sees_secrets if {
	redacted := names(personal_data.redact) with input as principal(["pii-reader"])
	{"$..password", "$..apiKey", "key", "token"} - redacted == set()
}
