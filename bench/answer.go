//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// answer is an HTTP/1.1 answer in a buffer.
type answer struct {
	status int
	length int // of the whole, head and body; 0 while something is missing
	body   []byte
	last   bool   // the server closes the connection
	told   []byte // its Gateway-Outcome
}

// maxAnswer is more than any peer has to say here.
const maxAnswer = 4 << 20

// parseAnswer looks whether buffer holds a whole answer.
func parseAnswer(buffer []byte) (answer, error) {
	end := bytes.Index(buffer, []byte("\r\n\r\n"))
	if end < 0 {
		if len(buffer) > 64<<10 {
			return answer{}, errors.New("an answer's head has no end")
		}
		return answer{}, nil
	}
	head, rest := buffer[:end], buffer[end+4:]
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return answer{}, fmt.Errorf("no HTTP/1.1 answer: %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return answer{}, fmt.Errorf("no HTTP/1.1 answer: %q", line)
	}
	a := answer{status: status}
	length, chunked := -1, false
	for len(fields) > 0 {
		line, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > maxAnswer {
				return answer{}, fmt.Errorf("an answer's Content-Length is %q", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("Connection")):
			a.last = bytes.EqualFold(value, []byte("close"))
		case bytes.EqualFold(name, []byte("Gateway-Outcome")):
			a.told = value
		}
	}
	switch {
	case chunked:
		body, used, err := parseChunks(rest)
		if err != nil || used == 0 {
			return answer{}, err
		}
		a.body, a.length = body, end+4+used
	case length < 0:
		return answer{}, errors.New("an answer has neither Content-Length nor chunks")
	case len(rest) >= length:
		a.body, a.length = rest[:length], end+4+length
	default:
		return answer{}, nil
	}
	return a, nil
}

// parseChunks returns the content of chunks and how many bytes they take, 0 while the last chunk is missing.
func parseChunks(rest []byte) (content []byte, used int, err error) {
	at := 0
	for {
		line := bytes.Index(rest[at:], []byte("\r\n"))
		if line < 0 {
			return nil, 0, nil
		}
		digits, _, _ := bytes.Cut(rest[at:at+line], []byte(";"))
		size, err := strconv.ParseUint(string(bytes.TrimSpace(digits)), 16, 31)
		if err != nil || size > maxAnswer {
			return nil, 0, fmt.Errorf("a chunk's size is %q", digits)
		}
		at += line + 2
		if len(rest) < at+int(size)+2 {
			return nil, 0, nil
		}
		content = append(content, rest[at:at+int(size)]...)
		at += int(size) + 2
		if size == 0 {
			return content, at, nil
		}
	}
}
