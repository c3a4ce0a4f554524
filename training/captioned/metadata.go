package captioned

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
)

const (
	maxMetadata = 512 << 20 // bytes of a metadata file
	maxLine     = 4 << 20   // bytes of a line of JSON
)

// metadata is the captions of images by their paths, from metadata files of Hugging Face's imagefolder.
type metadata struct {
	column   string // of captions; "": one of captionColumns
	captions map[string][]string
	errs     map[string]error // of an image's captions
	order    []string         // paths, as they were first listed
	unused   map[string]bool  // columns
}

// fileColumn is the column of an image's path, relative to the metadata file.
const fileColumn = "file_name"

// captionColumns are the columns that captions are taken from, the first one that there is.
var captionColumns = []string{"text", "caption", "prompt"}

// isMetadata reports whether a file is a metadata file, by its name.
func isMetadata(name string) bool {
	base := strings.ToLower(filepath.Base(name))
	return base == "metadata.jsonl" || base == "metadata.csv"
}

// read reads a metadata file. Images' paths are relative to dir/sub, where sub/name is the file.
func (m *metadata) read(file, sub string) error {
	f, size, err := plainfile.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if size > maxMetadata {
		return fmt.Errorf("%s has %d bytes, the limit is %d MiB: split the data into directories", quote.Path(file), size, maxMetadata>>20)
	}
	if strings.EqualFold(filepath.Ext(file), ".csv") {
		err = m.readCSV(f, sub)
	} else {
		err = m.readJSONL(f, sub)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", quote.Path(file), err)
	}
	return nil
}

func (m *metadata) readJSONL(r io.Reader, sub string) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 1
	for ; lines.Scan(); n++ {
		data := lines.Bytes()
		if n == 1 {
			data = []byte(strings.TrimPrefix(string(data), "\ufeff"))
		}
		if len(strings.TrimSpace(string(data))) == 0 {
			continue
		}
		var row map[string]any
		if err := json.Unmarshal(data, &row); err != nil {
			return fmt.Errorf("line %d: want a JSON object: %w", n, quote.Error(err))
		}
		if err := m.add(row, sub); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d has over %d MiB", n, maxLine>>20)
	}
	return quote.Error(lines.Err())
}

func (m *metadata) readCSV(r io.Reader, sub string) error {
	in := csv.NewReader(r)
	head, err := in.Read()
	if err != nil {
		return fmt.Errorf("want a line of column names: %w", quote.Error(noEOF(err)))
	}
	head = slices.Clone(head)
	head[0] = strings.TrimPrefix(head[0], "\ufeff")
	in.ReuseRecord = true
	for {
		values, err := in.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return quote.Error(err) // with the line
		}
		row := map[string]any{}
		for i, v := range values {
			row[head[i]] = v
		}
		if err := m.add(row, sub); err != nil {
			line, _ := in.FieldPos(0)
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// add adds an image's row. An image that is listed several times has several captions.
func (m *metadata) add(row map[string]any, sub string) error {
	columns := slices.Sorted(maps.Keys(row))
	name, ok := row[fileColumn].(string)
	if !ok || name == "" {
		return fmt.Errorf("want the column %s, an image's path, and there are %s", fileColumn, strings.Join(quote.Texts(columns), ", "))
	}
	name = path.Clean(filepath.ToSlash(name))
	if !fs.ValidPath(name) || name == "." {
		return fmt.Errorf("%s: want a path below the metadata file's directory, got %s", fileColumn, quote.Quoted(name))
	}
	name = path.Join(filepath.ToSlash(sub), name)
	if m.column == "" {
		for _, c := range captionColumns {
			if _, ok := row[c]; ok {
				m.column = c
				break
			}
		}
		if m.column == "" {
			return &columnError{fmt.Errorf("want a column of captions, one of %s, and there are %s", strings.Join(captionColumns, ", "), strings.Join(quote.Texts(columns), ", "))}
		}
	}
	value, ok := row[m.column]
	if !ok {
		return &columnError{fmt.Errorf("no column %s%s", quote.Quoted(m.column), suggest.Hint(m.column, columns))}
	}
	for _, c := range columns {
		if c != fileColumn && c != m.column {
			m.unused[c] = true
		}
	}
	if _, ok := m.captions[name]; !ok {
		m.order = append(m.order, name)
		m.captions[name] = nil
	}
	captions, err := textsOf(value)
	if err != nil {
		m.errs[name] = fmt.Errorf("caption in its metadata: %w", err)
	}
	m.captions[name] = append(m.captions[name], captions...)
	return nil
}

// ErrColumn is wrapped by the error about metadata without the column of captions: see Options.Column.
var ErrColumn = errors.New("metadata without a column of captions")

type columnError struct{ error }

func (e *columnError) Unwrap() error        { return e.error }
func (e *columnError) Is(target error) bool { return target == ErrColumn }

// textsOf are the captions of a JSON value: a string, a list of strings, or null.
func textsOf(value any) (texts []string, err error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		if err := checkText(v); err != nil {
			return nil, err
		}
		if v = strings.TrimSpace(v); v != "" {
			texts = append(texts, v)
		}
		return texts, nil
	case []any:
		for _, one := range v {
			if _, ok := one.([]any); ok {
				return nil, errors.New("want a text or a list of texts, got lists in a list")
			}
			more, err := textsOf(one)
			if err != nil {
				return nil, err
			}
			texts = append(texts, more...)
		}
		return texts, nil
	}
	return nil, fmt.Errorf("want a text or a list of texts, got %s", jsonKind(value))
}

func jsonKind(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case float64, int64:
		return "a number"
	case map[string]any:
		return "an object"
	}
	return "a value of another type"
}
