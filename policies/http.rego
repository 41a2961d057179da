# METADATA
# title: What a request does, in words
# description: |
#   A library: import data.countersign.http in your own rules. Everything in it errs to the side of finding, so use it in
#   ask and deny, and use `reads` in allow.
package countersign.http

import future.keywords.not

# What HTTP itself calls safe (RFC 9110, section 9.2.1), less TRACE.
reads if input.http.method in {"GET", "HEAD", "OPTIONS"}

# Everything that is not a read, methods that nobody knows included.
writes if {
	input.http.method
	not reads
}

deletes if input.http.method == "DELETE"

# The methods that an API of today has.
known_method if {
	input.http.method in {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}
}

# The names in the path, in small letters, whole and cut at what joins words: /v1/users:bulkDelete/All-Records has v1,
# users, bulk, delete, bulkdelete, all, records.
words contains lower(segment) if some segment in input.http.segments

words contains lower(word) if {
	some segment in input.http.segments
	some word in regex.find_n(`[A-Za-z][a-z]*|[0-9]+`, segment, -1)
}

words contains lower(word) if {
	some segment in input.http.segments
	some word in regex.split(`[^A-Za-z0-9]+`, segment)
	word != ""
}

# Header names and query parameters with which some servers take another method than the one in the request line. The
# gateway refuses the best known of them before policy is asked; a resource may have been told not to.
overrides contains name if {
	some name in {"x-http-method-override", "x-http-method", "x-method-override"}
	input.http.headers[name]
}

overrides contains name if {
	some name, _ in input.http.query
	lower(name) in {"_method", "method_override", "x-http-method-override", "x-http-method", "x-method-override"}
}

overrides contains name if {
	some name, _ in input.http.form
	lower(name) == "_method"
}

# What a parameter of any of these names says, wherever a server could look for it: query, form, top of a JSON body.
# Names are compared without regard to letters' case and to _, -, . and $.
parameter(names) := values if {
	input.http
	from_query := {value |
		some name, list in input.http.query
		plain(name) in names
		some value in list
	}
	from_form := {value |
		some name, list in input.http.form
		plain(name) in names
		some value in list
	}
	from_body := {value |
		is_object(input.http.body)
		some name, value in input.http.body
		plain(name) in names
	}
	values := (from_query | from_form) | from_body
}

# A text of the request for a summary, which has 300 bytes at most: at most 60 characters of it.
short(text) := text if count(text) <= 60

short(text) := concat("", [substring(text, 0, 57), "..."]) if count(text) > 60

plain(name) := regex.replace(lower(name), `[^a-z0-9]`, "")
