package config

import "strings"

// ConsoleURL returns where people reach the console, without a slash at the end: approvals.console_url, or else the address
// that it listens on. It is "" without a console.
func (c *Config) ConsoleURL() string {
	switch address := string(c.Listen.Console); {
	case c.Approvals.ConsoleURL != "":
		return strings.TrimSuffix(c.Approvals.ConsoleURL, "/")
	case address == "":
		return ""
	case c.Listen.ConsoleTLS != nil:
		return "https://" + address
	default:
		return "http://" + address
	}
}
