package extproctest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"
)

// Span is a span as the collector got it.
type Span struct {
	Name                      string
	TraceID, SpanID, ParentID string // hexadecimal
	TraceState                string
	Kind                      int // as OTLP numbers it: 2 server, 3 client
	Start, End                time.Time
	StatusCode                int // 0 unset, 1 ok, 2 error
	StatusMessage             string
	Attributes, Resource      map[string]any // string, int64, float64, bool, []byte, []any, map[string]any
	Scope                     string
	Events                    []Event
}

// Event is an event of a span.
type Event struct {
	Name       string
	Time       time.Time
	Attributes map[string]any
}

// LogRecord is a log record as the collector got it.
type LogRecord struct {
	EventName            string
	Time, Observed       time.Time
	Severity             int
	SeverityText         string
	Body                 any
	TraceID, SpanID      string // hexadecimal
	Attributes, Resource map[string]any
	Scope                string
}

// lineFile is a file of messages that grows, each of them a line that begins alike.
type lineFile struct {
	path   string
	begins string
	offset int64
}

// each calls f with every whole message that was not there the last time. A file that is not there yet has none. Where the
// collector was killed, half a message, which it has not acknowledged, stands before another one in its line.
func (t *lineFile) each(f func(message []byte) error) error {
	file, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.NewSectionReader(file, t.offset, 1<<62))
	if err != nil {
		return fmt.Errorf("read %s: %w", t.path, err)
	}
	for {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			return nil
		}
		if i := bytes.LastIndex(line, []byte(t.begins)); i > 0 {
			line = line[i:]
		}
		if err := f(line); err != nil {
			return fmt.Errorf("%s at byte %d: %w", t.path, t.offset, err)
		}
		t.offset += int64(len(text) - len(rest))
		text = rest
	}
}

// OTLP's JSON is not that of protobuf: ids are hexadecimal, so its own types are read here.
type (
	otlpValue struct {
		String *string          `json:"stringValue"`
		Int    *json.RawMessage `json:"intValue"` // "1", or 1
		Double *float64         `json:"doubleValue"`
		Bool   *bool            `json:"boolValue"`
		Bytes  *string          `json:"bytesValue"`
		Array  *struct {
			Values []otlpValue `json:"values"`
		} `json:"arrayValue"`
		Map *struct {
			Values []otlpAttribute `json:"values"`
		} `json:"kvlistValue"`
	}
	otlpAttribute struct {
		Key   string    `json:"key"`
		Value otlpValue `json:"value"`
	}
	otlpAttributes []otlpAttribute
	otlpResource   struct {
		Attributes otlpAttributes `json:"attributes"`
	}
	otlpScope struct {
		Name string `json:"name"`
	}
	otlpNanos string
)

func (n otlpNanos) time() time.Time {
	nanos, err := strconv.ParseInt(string(n), 10, 64)
	if err != nil || nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos).UTC()
}

func (v otlpValue) value() any {
	switch {
	case v.String != nil:
		return *v.String
	case v.Int != nil:
		n, err := strconv.ParseInt(string(bytes.Trim(*v.Int, `"`)), 10, 64)
		if err != nil {
			return string(*v.Int)
		}
		return n
	case v.Double != nil:
		return *v.Double
	case v.Bool != nil:
		return *v.Bool
	case v.Bytes != nil:
		decoded, err := base64.StdEncoding.DecodeString(*v.Bytes)
		if err != nil {
			return *v.Bytes
		}
		return decoded
	case v.Array != nil:
		values := []any{}
		for _, e := range v.Array.Values {
			values = append(values, e.value())
		}
		return values
	case v.Map != nil:
		return otlpAttributes(v.Map.Values).values()
	}
	return nil
}

func (a otlpAttributes) values() map[string]any {
	values := make(map[string]any, len(a))
	for _, kv := range a {
		values[kv.Key] = kv.Value.value()
	}
	return values
}

func readSpans(line []byte) ([]Span, error) {
	var request struct {
		ResourceSpans []struct {
			Resource   otlpResource `json:"resource"`
			ScopeSpans []struct {
				Scope otlpScope `json:"scope"`
				Spans []struct {
					Name, TraceID, SpanID, ParentSpanID, TraceState string
					Kind                                            int
					StartTimeUnixNano, EndTimeUnixNano              otlpNanos
					Attributes                                      otlpAttributes
					Status                                          struct {
						Code    int
						Message string
					}
					Events []struct {
						Name         string
						TimeUnixNano otlpNanos
						Attributes   otlpAttributes
					}
				}
			}
		}
	}
	if err := json.Unmarshal(line, &request); err != nil {
		return nil, fmt.Errorf("read spans: %w", err)
	}
	var spans []Span
	for _, r := range request.ResourceSpans {
		for _, scope := range r.ScopeSpans {
			for _, s := range scope.Spans {
				span := Span{
					Name: s.Name, TraceID: s.TraceID, SpanID: s.SpanID, ParentID: s.ParentSpanID, TraceState: s.TraceState,
					Kind: s.Kind, Start: s.StartTimeUnixNano.time(), End: s.EndTimeUnixNano.time(),
					StatusCode: s.Status.Code, StatusMessage: s.Status.Message,
					Attributes: s.Attributes.values(), Resource: r.Resource.Attributes.values(), Scope: scope.Scope.Name,
				}
				for _, e := range s.Events {
					span.Events = append(span.Events, Event{e.Name, e.TimeUnixNano.time(), e.Attributes.values()})
				}
				spans = append(spans, span)
			}
		}
	}
	return spans, nil
}

func readLogs(line []byte) ([]LogRecord, error) {
	var request struct {
		ResourceLogs []struct {
			Resource  otlpResource
			ScopeLogs []struct {
				Scope      otlpScope
				LogRecords []struct {
					EventName                          string
					TimeUnixNano, ObservedTimeUnixNano otlpNanos
					SeverityNumber                     int
					SeverityText                       string
					Body                               otlpValue
					TraceID, SpanID                    string
					Attributes                         otlpAttributes
				}
			}
		}
	}
	if err := json.Unmarshal(line, &request); err != nil {
		return nil, fmt.Errorf("read log records: %w", err)
	}
	var logs []LogRecord
	for _, r := range request.ResourceLogs {
		for _, scope := range r.ScopeLogs {
			for _, l := range scope.LogRecords {
				logs = append(logs, LogRecord{
					EventName: l.EventName, Time: l.TimeUnixNano.time(), Observed: l.ObservedTimeUnixNano.time(),
					Severity: l.SeverityNumber, SeverityText: l.SeverityText, Body: l.Body.value(),
					TraceID: l.TraceID, SpanID: l.SpanID,
					Attributes: l.Attributes.values(), Resource: r.Resource.Attributes.values(), Scope: scope.Scope.Name,
				})
			}
		}
	}
	return logs, nil
}
