# METADATA
# title: Files
# description: |
#   Agents download, and upload into a folder of their own name. Bodies are streamed past the gateway, so no rule here can look
#   at one: there is no input.http.body, and input.http.body_streamed is true.
package rules.files

allow contains {"id": "download"} if input.http.method in {"GET", "HEAD"}

allow contains {"id": "upload"} if {
	input.http.method == "PUT"
	input.http.segments == ["upload"]
	input.http.query.folder == [input.principal.subject]
}
