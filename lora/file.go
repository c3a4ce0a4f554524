package lora

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
)

// Kind is how an adapter changes a weight.
type Kind string

// The kinds of adapters.
const (
	LowRank    Kind = "LoRA" // W + s·B·A (Hu et al. 2021)
	Tucker     Kind = "LoRA with a kernel of its own"
	Hadamard   Kind = "LoHa" // W + s·(B₁·A₁)⊙(B₂·A₂) (Hyeon-Woo et al. 2021)
	Kronecker  Kind = "LoKr" // W + s·C⊗(B·A) (Yeh et al. 2023)
	Difference Kind = "full" // W + D
	Rotation   Kind = "OFT"  // R·W with R orthogonal, in blocks (Qiu et al. 2023)
	Butterfly  Kind = "BOFT" // the same in stages (Liu et al. 2024)
)

// Module is what an adapter's file has for one layer.
type Module struct {
	Name   string // of the layer: part and path by today's names, where a model is known; else as the file calls it
	Layout Layout
	Kind   Kind
	DoRA   bool    // the direction is changed, and the length of each row is a weight of its own (Liu et al. 2024)
	Rank   int     // 0: it has none
	Alpha  float64 // what the file says; the rank, where it says nothing
	Scale  float64 // what the product is multiplied by: alpha/rank, or alpha/√rank
	DType  torch.DType

	key     key
	tensors map[role]string // names in the file
	shapes  map[role][]int
	order   []role // of the tensors, sorted
}

// File is an adapter's file. It has to stay open while what was loaded of it is used.
type File struct {
	Path     string // as it was asked for
	Tensors  string // the file that has them: Path, or one in that folder
	Metadata map[string]string
	Modules  []*Module // in the file's order
	// Embeddings are textual inversion embeddings beside the modules. They are no part of the adapter.
	Embeddings []Embedding

	src    *weights.Tensors
	lone   []string // names of alphas without factors
	others []string // names of tensors for text encoders that no model here has
}

// Open opens an adapter: a safetensors file, one of torch.save, or a folder as peft or diffusers write it. Its values are not read. Names
// that are not an adapter's, tensors without their other half, shapes that cannot be, and kinds that are not built are reported together.
func Open(path string) (_ *File, err error) {
	where, folder, err := fileOf(path)
	if err != nil {
		return nil, err
	}
	if st, err := os.Stat(where); err != nil {
		return nil, err
	} else if st.Size() > maxSize {
		return nil, fmt.Errorf("%s: want the file of an adapter, of at most %d GiB, got %.1f GiB", quote.Path(path), maxSize>>30, float64(st.Size())/(1<<30))
	}
	src, err := weights.OpenTensors(where)
	if err != nil {
		return nil, err
	}
	f := &File{Path: path, Tensors: where, Metadata: src.Metadata(), src: src}
	defer func() {
		if err != nil {
			err = errors.Join(err, src.Close())
		}
	}()
	if weights.IsInversion(src) {
		return nil, fmt.Errorf("%s: it is a textual inversion embedding, which adds a word to prompts, and not an adapter", quote.Path(path))
	}
	c, err := f.configs(folder)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	if err := f.group(); err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	if work := c.size() * len(f.Modules); work > maxWork {
		return nil, fmt.Errorf("%s: alpha_pattern and rank_pattern: want expressions that %d modules can be tried with", quote.Path(path), len(f.Modules))
	}
	var wrong []string
	for _, m := range f.Modules {
		if err := f.complete(m, c); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", quote.Text(m.Name), err))
		}
	}
	if wrong != nil {
		return nil, fmt.Errorf("%s: %s", quote.Path(path), list("modules that cannot be used", wrong))
	}
	return f, nil
}

// Close closes the file.
func (f *File) Close() error { return f.src.Close() }

// group collects the tensors of each module.
func (f *File) group() error {
	type id struct{ part, path string }
	by := map[id]*Module{}
	var strange, refused []string
	for name := range f.src.Names() {
		if f.extra(name) {
			continue
		}
		k, ok := parse(name)
		switch {
		case !ok:
			strange = append(strange, quote.Text(name))
			continue
		case k.role == "":
			refused = append(refused, fmt.Sprintf("%s (%s)", quote.Text(name), k.what))
			continue
		}
		at := id{k.part, k.path}
		m := by[at]
		if m == nil {
			m = &Module{Name: k.stem, key: k, tensors: map[role]string{}}
			by[at] = m
			f.Modules = append(f.Modules, m)
		}
		if other, ok := m.tensors[k.role]; ok {
			refused = append(refused, fmt.Sprintf("%s (the same as %s)", quote.Text(name), quote.Text(other)))
		}
		if k.role != alpha && k.role != magnitude {
			m.key, m.Layout = k, k.layout
		}
		m.tensors[k.role] = name
	}
	f.orphans()
	switch {
	case len(f.Modules) == 0 && len(refused) == 0:
		return f.strangers(strange)
	case refused != nil:
		return errors.New(list("tensors of adapter types that are not supported", refused))
	case strange != nil:
		return errors.New(list("tensors that are not an adapter's", strange))
	}
	return nil
}

// complete finds a module's kind, rank and scale.
func (f *File) complete(m *Module, c configs) error {
	m.order = slices.Sorted(maps.Keys(m.tensors))
	shapes := map[role][]int{}
	m.shapes = shapes
	for r, name := range m.tensors {
		shape, d, _ := f.src.Info(name)
		if !d.IsFloat() && !d.IsFloat8() && r != alpha {
			return fmt.Errorf("%s: want numbers of floating point, got %s", r, d)
		}
		shapes[r] = shape
		if r != alpha && r != magnitude {
			m.DType = d
		}
	}
	_, m.DoRA = m.tensors[magnitude]
	has := func(roles ...role) bool {
		return !slices.ContainsFunc(roles, func(r role) bool { return m.tensors[r] == "" })
	}
	rank := func(r role, dim, of int) (int, error) {
		if s := shapes[r]; len(s) != of && !(of == 2 && len(s) > 2) {
			return 0, fmt.Errorf("%s: want %d dimensions, got the shape %v", r, of, s)
		}
		return shapes[r][dim], nil
	}
	var err error
	allowed := []role{alpha, magnitude, diffBias}
	switch {
	case has(diff) || len(m.tensors) == 1 && has(diffBias):
		m.Kind = Difference
		allowed = []role{diff, diffBias}
	case has("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"):
		m.Kind = Hadamard
		m.Rank, err = rank("hada_w1_b", 0, 2)
		allowed = append(allowed, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
		if has("hada_t1") != has("hada_t2") {
			err = errors.New("want hada_t1 and hada_t2, or neither")
		}
	case has("lokr_w1") || has("lokr_w1_a", "lokr_w1_b"):
		m.Kind = Kronecker
		one, two := []role{"lokr_w1_a", "lokr_w1_b"}, []role{"lokr_w2_a", "lokr_w2_b", "lokr_t2"}
		if has("lokr_w1") {
			one = []role{"lokr_w1"}
		}
		if has("lokr_w2") {
			two = []role{"lokr_w2"}
		}
		allowed = slices.Concat(allowed, one, two)
		switch {
		case !has("lokr_w2") && !has("lokr_w2_a", "lokr_w2_b"):
			return errors.New("want lokr_w2, or lokr_w2_a and lokr_w2_b")
		case has("lokr_w2_b"):
			m.Rank, err = rank("lokr_w2_b", 0, 2)
		case has("lokr_w1_b"):
			m.Rank, err = rank("lokr_w1_b", 0, 2)
		}
	case has(blocks):
		allowed = []role{alpha, blocks, rescale}
		err = m.rotation(shapes[blocks])
	case has(rescale):
		return errTurned
	case has(down, up):
		m.Kind = LowRank
		if has(mid) {
			m.Kind = Tucker
		}
		allowed = append(allowed, down, up, mid)
		if m.Rank, err = rank(down, 0, 2); err == nil && (len(shapes[up]) < 2 || shapes[up][1] != m.Rank) {
			return fmt.Errorf("down has rank %d, of the shape %v, and up does not, of the shape %v", m.Rank, shapes[down], shapes[up])
		}
		if has(mid) && (len(shapes[mid]) != 4 || shapes[mid][0] != m.Rank || shapes[mid][1] != m.Rank) {
			return fmt.Errorf("want a kernel of the shape [%d, %d, k, k], got %v", m.Rank, m.Rank, shapes[mid])
		}
	default:
		return fmt.Errorf("want down and up of a LoRA, or all of the tensors of a LoHa, LoKr or OFT; there is %v", m.order)
	}
	if err != nil {
		return err
	}
	for _, r := range m.order {
		if !slices.Contains(allowed, r) {
			return fmt.Errorf("%s is no part of this %s: there is %v", r, m.Kind, m.order)
		}
	}
	if m.Kind != Difference && m.Kind != Kronecker && !m.Kind.rotates() && m.Rank < 1 {
		return errors.New("it has rank 0")
	}
	if m.Rank > maxRank {
		if got, err := f.shape(m); err == nil {
			if err := bounded(m.Rank, got[0], product(got[1:])); err != nil {
				return err
			}
		}
	}
	return f.scale(m, c)
}

// scale finds what the module's product is multiplied by. Without an alpha it is 1.
func (f *File) scale(m *Module, c configs) error {
	m.Alpha, m.Scale = float64(m.Rank), 1
	if name, ok := m.tensors[alpha]; ok {
		v, err := f.number(name)
		if err != nil {
			return err
		}
		m.Alpha = v
	}
	root := false
	if s, ok := c.of(m.key.part); ok && !m.key.flat { // as diffusers, which asks the configuration first
		m.Alpha, root = s.alpha(m.key.path, m.Alpha), s.RootRank
		if m.Kind == Kronecker && m.Rank == 0 { // peft scales whole factors, too
			m.Rank = s.rank(m.key.path)
		}
	}
	if m.Kind.rotates() { // alpha bounds the turn
		if m.tensors[alpha] == "" {
			m.Alpha = 0
		}
		return nil
	}
	if m.Rank == 0 { // a full difference, or two full factors, which LyCORIS does not scale
		m.Alpha = 0
		return nil
	}
	m.Scale = m.Alpha / float64(m.Rank)
	if root {
		m.Scale = m.Alpha / math.Sqrt(float64(m.Rank))
	}
	return nil
}

// number reads a tensor of one number.
func (f *File) number(name string) (v float64, err error) {
	shape, _, _ := f.src.Info(name)
	if n := product(shape); n != 1 {
		return 0, fmt.Errorf("alpha: want one number, got the shape %v", shape)
	}
	list, err := f.src.Floats(name)
	if err != nil {
		return 0, err
	}
	if v = list[0]; math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("alpha: want a finite number, got %g", v)
	}
	return v, nil
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// settings are what peft says of an adapter besides its tensors.
type settings struct {
	Rank          int
	Alpha         *float64
	RootRank      bool // the scale is alpha/√rank (Kalajdzievski 2023)
	alphas, ranks patterns
}

// pattern is a rule for the modules whose paths end in what it matches: in a regular expression, or in a name, of which most are.
type pattern struct {
	end   string
	whole bool // the path is the end
	re    *regexp.Regexp
	size  int // of the expression's program
	value float64
}

var plainName = regexp.MustCompile(`^\^?[A-Za-z0-9_.-]+\$?$`)

// newPattern reads a pattern, without its value.
func newPattern(text string) (p pattern, err error) {
	if plainName.MatchString(text) {
		p.end, p.whole = strings.CutPrefix(text, "^")
		p.end = strings.TrimSuffix(p.end, "$")
		return p, nil
	}
	expression := `^(?:.*\.)?(?:` + text + `)$`
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return p, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return p, err
	}
	p.size = len(program.Inst)
	p.re, err = regexp.Compile(expression)
	return p, err
}

// matches tells whether the path ends in what the pattern says, after a point or at its beginning.
func (p pattern) matches(path string) bool {
	if p.re != nil {
		return p.re.MatchString(path)
	}
	at := len(path) - len(p.end)
	if at < 0 || at > 0 && (p.whole || path[at-1] != '.') {
		return false
	}
	for i := range len(p.end) {
		if c := p.end[i]; c != '.' && c != path[at+i] { // a point is any character
			return false
		}
	}
	return true
}

// patterns are rules, the first that matches counts.
type patterns []pattern

// first returns the value of the first pattern that matches.
func (l patterns) first(path string) (float64, bool) {
	if len(path) > maxPattern {
		return 0, false
	}
	for _, p := range l {
		if p.matches(path) {
			return p.value, true
		}
	}
	return 0, false
}

// alpha returns what the settings say of a module, or else what is known.
func (s settings) alpha(path string, known float64) float64 {
	if v, ok := s.alphas.first(path); ok {
		return v
	}
	if s.Alpha != nil {
		return *s.Alpha
	}
	return known
}

// rank returns what the settings say of a module.
func (s settings) rank(path string) int {
	if v, ok := s.ranks.first(path); ok {
		return int(v)
	}
	return s.Rank
}

// configs are settings by part; those of "" are for all.
type configs map[string]settings

func (c configs) of(part string) (settings, bool) {
	if part == "" {
		part = unetPart
	}
	s, ok := c[part]
	if !ok {
		s, ok = c[""]
	}
	return s, ok
}

// size is how much work the patterns are for a module.
func (c configs) size() (n int) {
	for _, s := range c {
		for _, p := range slices.Concat(s.alphas, s.ranks) {
			n += p.size
		}
	}
	return n
}

const (
	metadataKey = "lora_adapter_metadata" // where diffusers has peft's settings
	configName  = "adapter_config.json"   // where peft has
)

// configs reads peft's settings from the file or from beside it.
func (f *File) configs(folder string) (configs, error) {
	data := []byte(f.Metadata[metadataKey])
	from := "metadata " + metadataKey
	if len(data) == 0 {
		if !strings.HasPrefix(filepath.Base(f.Path), "adapter_model.") && folder != f.Path {
			return nil, nil
		}
		var err error
		if data, err = plainfile.Read(filepath.Join(folder, configName), configjson.Most); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		from = configName
	}
	c, err := parseConfigs(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return c, nil
}

// parseConfigs reads peft's settings: for all parts, or for each with its name before the keys.
func parseConfigs(data []byte) (configs, error) {
	var all map[string]json.RawMessage
	if err := configjson.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("want a JSON object: %w", err)
	}
	by := map[string]map[string]json.RawMessage{}
	for name, v := range all {
		part, key := "", name
		for _, p := range []string{unetPart, textPart, text2Part} {
			if rest, ok := strings.CutPrefix(name, p+"."); ok {
				part, key = p, rest
			}
		}
		if by[part] == nil {
			by[part] = map[string]json.RawMessage{}
		}
		by[part][key] = v
	}
	c := configs{}
	for part, keys := range by {
		var s settings
		for _, want := range []struct {
			key string
			to  any
		}{
			{"r", &s.Rank}, {"alpha", &s.Alpha}, {"lora_alpha", &s.Alpha}, {"alpha_pattern", &s.alphas}, {"rank_pattern", &s.ranks}, {"use_rslora", &s.RootRank},
		} {
			if raw, ok := keys[want.key]; ok {
				if err := json.Unmarshal(raw, want.to); err != nil {
					return nil, fmt.Errorf("%s: %w", want.key, quote.Error(err))
				}
			}
		}
		if s.Rank < 0 {
			return nil, fmt.Errorf("r: want a rank, got %d", s.Rank)
		}
		var begun string
		if json.Unmarshal(keys["init_lora_weights"], &begun) == nil && slices.ContainsFunc(rebased, func(name string) bool { return strings.HasPrefix(begun, name) }) {
			return nil, fmt.Errorf("init_lora_weights: with %s the adapter is for other weights than the model's: want it converted by peft, in save_pretrained, to one of the model as it is", quote.Quoted(begun))
		}
		c[part] = s
	}
	return c, nil
}

// rebased are how adapters begin that peft takes off the model's weights before it trains them.
var rebased = []string{"pissa", "olora", "corda", "lora_ga", "loftq"}

// What patterns of a file may be, so that none keeps a program busy for long.
const (
	maxPatterns = 4096 // of which most are names
	maxRegexps  = 256
	maxPattern  = 512     // bytes of one, and of a path that one may match
	maxWork     = 1 << 24 // steps of their programs for all modules, for each character of a path
)

// UnmarshalJSON reads an object of patterns and numbers, as peft reads them: in the order in which they stand.
func (l *patterns) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil || open == nil {
		return err
	}
	if open != json.Delim('{') {
		return fmt.Errorf("want an object of patterns and numbers, got %s", quote.Quoted(data))
	}
	at, regexps := map[string]int{}, 0
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		name := token.(string) // of an object, which is valid
		var v *float64
		if err := dec.Decode(&v); err != nil {
			return fmt.Errorf("%s: %w", quote.Quoted(name), quote.Error(err))
		}
		if v == nil {
			return fmt.Errorf("%s: want a number, got null", quote.Quoted(name))
		}
		if i, ok := at[name]; ok { // the last value counts, in the first place
			(*l)[i].value = *v
			continue
		}
		if len(*l) == maxPatterns || len(name) > maxPattern {
			return fmt.Errorf("want at most %d patterns of at most %d bytes", maxPatterns, maxPattern)
		}
		p, err := newPattern(name)
		if err != nil {
			return fmt.Errorf("%s is no pattern: %w", quote.Quoted(name), quote.Error(err))
		}
		if p.re != nil {
			if regexps++; regexps > maxRegexps {
				return fmt.Errorf("want at most %d patterns that are no names", maxRegexps)
			}
		}
		p.value = *v
		at[name] = len(*l)
		*l = append(*l, p)
	}
	return nil
}

// list says how many there are of something, and names some.
func list(what string, names []string) string {
	const most = 8
	shown := names[:min(len(names), most)]
	text := fmt.Sprintf("%d %s: %s", len(names), what, strings.Join(shown, ", "))
	if n := len(names) - len(shown); n > 0 {
		text += fmt.Sprintf(", and %d more", n)
	}
	return text
}
