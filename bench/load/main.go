// Load sends one request again and again, over connections that stay open, and prints what it cost as one line of JSON.
//
// It reads its plan from standard input as JSON: see the type plan. With a rate of 0 each connection sends as soon as it has its answer
// (closed loop). With a rate, requests are due at even distances, whatever has become of those before them, and a latency counts from
// when its request was due (open loop): a server that stands still for a second is charged with all that was due in that second.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const patience = 30 * time.Second

type plan struct {
	URL         string            `json:"url"`
	Headers     map[string]string `json:"headers"`
	Bodies      []string          `json:"bodies"` // sent in turn
	Authority   string            `json:"authority"`
	Connections int               `json:"connections"`
	Rate        float64           `json:"rate"`
	WarmUp      float64           `json:"warm_up"`
	Seconds     int               `json:"seconds"`
	Forbidden   string            `json:"forbidden"` // an answer that holds this is a failure, whatever its status
}

type answer struct {
	second  int
	latency time.Duration
}

// worker is one connection; nothing of it is shared while the load runs.
type worker struct {
	answers  []answer
	failures int
	example  string
}

type result struct {
	Answers  int       `json:"answers"`
	Rate     float64   `json:"rate"`
	P50      float64   `json:"p50_ms"`
	P99      float64   `json:"p99_ms"`
	Max      float64   `json:"max_ms"`
	Seconds  []seconds `json:"seconds"`
	Failures int       `json:"failures"`
	Example  string    `json:"example"`
}

type seconds struct {
	Answers int     `json:"answers"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
}

func main() {
	var asked plan
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fail(err)
	}
	connections := make([]*connection, asked.Connections)
	for index := range connections {
		var err error
		if connections[index], err = newConnection(asked); err != nil {
			fail(err)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(run(asked, connections)); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// connection is one that stays open; it writes requests that are prepared, and reads no more of an answer than it must: what the tool costs,
// neither server can have, for they run beside it.
type connection struct {
	asked    plan
	address  string
	tls      *tls.Config
	requests [][]byte
	conn     net.Conn
	reader   *bufio.Reader
	content  []byte
}

func newConnection(asked plan) (*connection, error) {
	target, err := url.Parse(asked.URL)
	if err != nil {
		return nil, err
	}
	made := &connection{asked: asked, address: target.Host}
	if target.Scheme == "https" {
		pem, err := os.ReadFile(asked.Authority)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("no certificate in " + asked.Authority)
		}
		made.tls = &tls.Config{RootCAs: pool, ServerName: target.Hostname(), NextProtos: []string{"http/1.1"}}
	}
	for _, body := range asked.Bodies {
		var request bytes.Buffer
		fmt.Fprintf(&request, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", target.RequestURI(), target.Host, len(body))
		for name, value := range asked.Headers {
			fmt.Fprintf(&request, "%s: %s\r\n", name, value)
		}
		fmt.Fprintf(&request, "\r\n%s", body)
		made.requests = append(made.requests, request.Bytes())
	}
	return made, nil
}

func (c *connection) open() error {
	var err error
	if c.tls == nil {
		c.conn, err = net.DialTimeout("tcp", c.address, patience)
	} else {
		c.conn, err = tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", c.address, c.tls)
	}
	if err == nil {
		c.reader = bufio.NewReaderSize(c.conn, 1<<16)
	}
	return err
}

// send asks once; after an error the next call opens a new connection.
func (c *connection) send(number int64) error {
	if c.conn == nil {
		if err := c.open(); err != nil {
			return err
		}
	}
	keep, err := c.exchange(c.requests[number%int64(len(c.requests))])
	if err != nil || !keep {
		c.conn.Close()
		c.conn = nil
	}
	return err
}

// exchange reports whether the connection stays open.
func (c *connection) exchange(request []byte) (bool, error) {
	c.conn.SetDeadline(time.Now().Add(patience))
	if _, err := c.conn.Write(request); err != nil {
		return false, err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return false, err
	}
	if response.ContentLength < 0 {
		c.content, err = io.ReadAll(response.Body)
	} else {
		c.content = slices.Grow(c.content[:0], int(response.ContentLength))[:response.ContentLength]
		_, err = io.ReadFull(response.Body, c.content)
	}
	if err != nil {
		return false, err
	}
	if response.StatusCode != http.StatusOK {
		return false, fmt.Errorf("status %d: %.200s", response.StatusCode, c.content)
	}
	if c.asked.Forbidden != "" && bytes.Contains(c.content, []byte(c.asked.Forbidden)) {
		return false, fmt.Errorf("an answer holds %q", c.asked.Forbidden)
	}
	return !response.Close, response.Body.Close()
}

func run(asked plan, connections []*connection) result {
	workers := make([]worker, asked.Connections)
	var next atomic.Int64
	var waiting sync.WaitGroup
	began := time.Now()
	measured := began.Add(time.Duration(asked.WarmUp * float64(time.Second)))
	end := measured.Add(time.Duration(asked.Seconds) * time.Second)
	for index := range workers {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			one := &workers[index]
			for {
				number := next.Add(1) - 1
				due := time.Now()
				if asked.Rate > 0 {
					due = began.Add(time.Duration(float64(number) / asked.Rate * float64(time.Second)))
					time.Sleep(time.Until(due))
				}
				if !due.Before(end) {
					return
				}
				err := connections[index].send(number)
				done := time.Now()
				if err != nil {
					one.failures++
					one.example = err.Error()
					continue
				}
				// What was due in a second belongs to it; without a schedule, what was answered in it.
				at := due
				if asked.Rate == 0 {
					at = done
				}
				if at.Before(measured) || !at.Before(end) {
					continue
				}
				one.answers = append(one.answers, answer{int(at.Sub(measured) / time.Second), done.Sub(due)})
			}
		}()
	}
	waiting.Wait()
	return summary(asked, workers)
}

func summary(asked plan, workers []worker) result {
	var all []time.Duration
	bySecond := make([][]time.Duration, asked.Seconds)
	var made result
	for _, one := range workers {
		made.Failures += one.failures
		if one.example != "" {
			made.Example = one.example
		}
		for _, each := range one.answers {
			all = append(all, each.latency)
			bySecond[each.second] = append(bySecond[each.second], each.latency)
		}
	}
	made.Answers = len(all)
	made.Rate = float64(len(all)) / float64(asked.Seconds)
	made.P50, made.P99, made.Max = percentile(all, 0.5), percentile(all, 0.99), percentile(all, 1)
	for _, some := range bySecond {
		made.Seconds = append(made.Seconds, seconds{len(some), percentile(some, 0.5), percentile(some, 0.99)})
	}
	return made
}

// percentile returns milliseconds: the smallest latency that this part of all do not exceed.
func percentile(some []time.Duration, part float64) float64 {
	if len(some) == 0 {
		return 0
	}
	slices.Sort(some)
	index := int(part*float64(len(some))+0.999999) - 1
	return float64(some[max(index, 0)]) / float64(time.Millisecond)
}
