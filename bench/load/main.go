// Load sends one request again and again, over connections that stay open, and prints what it cost as one line of JSON.
//
// It reads its plan from standard input as JSON: see the type plan. With a rate of 0 each connection sends as soon as it has its answer
// (closed loop). With a rate, requests are due at even distances, whatever has become of those before them, and a latency counts from
// when its request was due (open loop): a server that stands still for a second is charged with all that was due in that second.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

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
	client, err := newClient(asked)
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(run(asked, client)); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func newClient(asked plan) (*http.Client, error) {
	transport := &http.Transport{
		MaxIdleConnsPerHost: asked.Connections,
		MaxConnsPerHost:     asked.Connections,
		DisableCompression:  true,
	}
	if asked.Authority != "" {
		pem, err := os.ReadFile(asked.Authority)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("no certificate in " + asked.Authority)
		}
		// With a configuration of its own, Go's transport speaks HTTP/1.1 only.
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}, nil
}

func run(asked plan, client *http.Client) result {
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
				err := send(asked, client, asked.Bodies[number%int64(len(asked.Bodies))])
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

func send(asked plan, client *http.Client, body string) error {
	request, err := http.NewRequest(http.MethodPost, asked.URL, bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	for name, value := range asked.Headers {
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %.200s", response.StatusCode, content)
	}
	if asked.Forbidden != "" && bytes.Contains(content, []byte(asked.Forbidden)) {
		return fmt.Errorf("an answer holds %q", asked.Forbidden)
	}
	return nil
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
