# METADATA
# title: Personal data
# description: |
#   Ready-made, and allows nothing by itself: include its redact beside an allow of your own. Principals with the group or
#   role "pii-reader" see personal data; nobody sees secrets.
#
#     redact contains what if some what in data.rules.personal_data.redact
package rules.personal_data

import future.keywords.not

import data.countersign.people

# Members that identify a person by themselves, at any depth, in the spellings that APIs use.
identifying := {
	"ssn", "social_security_number", "socialSecurityNumber",
	"tax_id", "taxId", "national_id", "nationalId",
	"passport_number", "passportNumber", "driver_license", "driverLicense",
	"date_of_birth", "dateOfBirth", "birth_date", "birthDate", "dob",
	"iban", "account_number", "accountNumber",
	"card_number", "cardNumber", "pan",
}

# Members that open something, or prove something.
secret := {
	"password", "passwd", "secret", "client_secret", "clientSecret",
	"api_key", "apiKey", "private_key", "privateKey",
	"access_token", "accessToken", "refresh_token", "refreshToken",
	"cvv", "cvc", "pin",
}

redact contains {"path": concat("", ["$..", name])} if {
	some name in identifying
	not people.is_in({"pii-reader"})
}

# Where somebody wrote a value that nobody expected there: notes, subjects, error messages.
redact contains {"detect": kind} if {
	some kind in {"email", "card", "iban", "ssn"}
	not people.is_in({"pii-reader"})
}

redact contains {"path": concat("", ["$..", name]), "with": "mask"} if some name in secret

redact contains {"detect": kind} if some kind in {"key", "token"}
