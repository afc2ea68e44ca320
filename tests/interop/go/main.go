// Command interop lets programs that others wrote judge what our log writes. Its argument names the check; it reads a JSON list of
// cases from standard input, byte strings in base64, and writes a JSON list of answers: a value, or why the case is refused.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type testCase struct {
	Key     string   `json:"key"`
	Policy  string   `json:"policy"`
	Note    []byte   `json:"note"`
	Proof   []byte   `json:"proof"`
	Entry   []byte   `json:"entry"`
	Entries [][]byte `json:"entries"`
	Hashes  [][]byte `json:"hashes"`
	Index   int64    `json:"index"`
	Size    int64    `json:"size"`
	Root    []byte   `json:"root"`
	Old     int64    `json:"old"`
	OldRoot []byte   `json:"old_root"`
	Path    string   `json:"path"`
}

type answer struct {
	Value string `json:"value"`
	Error string `json:"error"`
}

var checks = map[string]func(testCase) (string, error){
	"note":        openNote,
	"checkpoint":  verifyCheckpoint,
	"proof":       verifyProof,
	"record":      checkRecord,
	"tree":        checkTree,
	"root":        treeHash,
	"directory":   readDirectory,
	"path":        parsePath,
	"inclusion":   proveRecord,
	"consistency": proveTree,
}

func main() {
	if len(os.Args) != 2 || checks[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: interop CHECK <cases.json")
		os.Exit(2)
	}
	var cases []testCase
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		fmt.Fprintln(os.Stderr, "interop: the cases are not what they should be:", err)
		os.Exit(2)
	}
	answers := make([]answer, len(cases))
	for i, c := range cases {
		value, err := checks[os.Args[1]](c)
		answers[i].Value = value
		if err != nil {
			answers[i] = answer{Error: err.Error()}
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

// openNote opens a signed note with one verifier key, and gives its text.
func openNote(c testCase) (string, error) {
	verifier, err := note.NewVerifier(c.Key)
	if err != nil {
		return "", err
	}
	opened, err := note.Open(c.Note, note.VerifierList(verifier))
	if err != nil {
		return "", err
	}
	return opened.Text, nil
}

// verifyCheckpoint verifies a checkpoint under a witness policy, and gives its text.
func verifyCheckpoint(c testCase) (string, error) {
	policy, err := torchwood.ParsePolicy([]byte(c.Policy))
	if err != nil {
		return "", err
	}
	checkpoint, _, err := torchwood.VerifyCheckpoint(c.Note, policy)
	if err != nil {
		return "", err
	}
	return checkpoint.String(), nil
}

// verifyProof verifies a proof file of an entry under a witness policy.
func verifyProof(c testCase) (string, error) {
	policy, err := torchwood.ParsePolicy([]byte(c.Policy))
	if err != nil {
		return "", err
	}
	return "", torchwood.VerifyProof(policy, tlog.RecordHash(c.Entry), c.Proof)
}

// checkRecord checks the inclusion proof of an entry.
func checkRecord(c testCase) (string, error) {
	root, hashes, err := rootAndHashes(c)
	if err != nil {
		return "", err
	}
	return "", tlog.CheckRecord(hashes, c.Size, root, c.Index, tlog.RecordHash(c.Entry))
}

// checkTree checks the consistency proof between two sizes.
func checkTree(c testCase) (string, error) {
	root, hashes, err := rootAndHashes(c)
	if err != nil {
		return "", err
	}
	old, err := hashOf(c.OldRoot)
	if err != nil {
		return "", err
	}
	return "", tlog.CheckTree(hashes, c.Size, root, c.Old, old)
}

// treeHash gives the root over entries.
func treeHash(c testCase) (string, error) {
	stored, err := store(c.Entries)
	if err != nil {
		return "", err
	}
	root, err := tlog.TreeHash(int64(len(c.Entries)), stored)
	return root.String(), err
}

// proveRecord gives the inclusion proof of an entry among entries.
func proveRecord(c testCase) (string, error) {
	stored, err := store(c.Entries)
	if err != nil {
		return "", err
	}
	proof, err := tlog.ProveRecord(int64(len(c.Entries)), c.Index, stored)
	return joined(proof), err
}

// proveTree gives the consistency proof from an old size to all entries.
func proveTree(c testCase) (string, error) {
	stored, err := store(c.Entries)
	if err != nil {
		return "", err
	}
	proof, err := tlog.ProveTree(int64(len(c.Entries)), c.Old, stored)
	return joined(proof), err
}

// readDirectory reads every entry of a log's directory, each proven to be in the tree of the checkpoint, and gives size and root as
// they follow from the entries alone.
func readDirectory(c testCase) (string, error) {
	text, err := openNote(c)
	if err != nil {
		return "", err
	}
	checkpoint, err := torchwood.ParseCheckpoint(text)
	if err != nil {
		return "", err
	}
	tiles, err := torchwood.NewTileFS(os.DirFS(c.Path))
	if err != nil {
		return "", err
	}
	client, err := torchwood.NewClient(tiles)
	if err != nil {
		return "", err
	}
	var entries [][]byte
	for _, entry := range client.AllEntries(context.Background(), checkpoint.Tree, 0) {
		entries = append(entries, entry)
	}
	if err := client.Err(); err != nil {
		return "", err
	}
	root, err := treeHash(testCase{Entries: entries})
	return fmt.Sprintf("%d %s", len(entries), root), err
}

// parsePath reads the path of a tile or bundle.
func parsePath(c testCase) (string, error) {
	tile, err := torchwood.ParseTilePath(c.Path)
	return fmt.Sprintf("%d %d %d", tile.L, tile.N, tile.W), err
}

// store keeps the hashes of a tree in the order in which tlog numbers them.
func store(entries [][]byte) (tlog.HashReader, error) {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			if index >= int64(len(stored)) {
				return nil, fmt.Errorf("hash %d is not there", index)
			}
			found[i] = stored[index]
		}
		return found, nil
	})
	for i, entry := range entries {
		hashes, err := tlog.StoredHashes(int64(i), entry, reader)
		if err != nil {
			return nil, err
		}
		stored = append(stored, hashes...)
	}
	return reader, nil
}

func rootAndHashes(c testCase) (tlog.Hash, []tlog.Hash, error) {
	root, err := hashOf(c.Root)
	if err != nil {
		return root, nil, err
	}
	hashes := make([]tlog.Hash, len(c.Hashes))
	for i, data := range c.Hashes {
		if hashes[i], err = hashOf(data); err != nil {
			return root, nil, err
		}
	}
	return root, hashes, nil
}

func hashOf(data []byte) (tlog.Hash, error) {
	if len(data) != tlog.HashSize {
		return tlog.Hash{}, fmt.Errorf("a hash of %d bytes", len(data))
	}
	return tlog.Hash(data), nil
}

func joined[P ~[]tlog.Hash](proof P) string {
	text := ""
	for _, hash := range proof {
		text += hash.String() + "\n"
	}
	return text
}
