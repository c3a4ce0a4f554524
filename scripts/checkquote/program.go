package main

import (
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"unicode"
)

// program is the module's packages, with what is needed to follow a value backwards.
type program struct {
	fset *token.FileSet
	info *types.Info

	decls   map[*types.Func]*ast.FuncDecl
	returns map[ast.Node][]*ast.ReturnStmt // of a FuncDecl or FuncLit
	named   map[ast.Node][]*types.Var      // its named results
	calls   map[types.Object][]*ast.CallExpr
	params  map[*types.Var]param
	values  map[types.Object][]value      // what is assigned to variables and fields
	escaped map[types.Object]bool         // something has a pointer to it and may write
	holder  map[*ast.FuncLit]types.Object // the variable that holds a function without a name
	decoded map[types.Object]bool         // fields with a tag, which decoders fill
	reason  map[string]map[int]bool       // lines with a comment that says why
	sites   []site
	within  map[string]string // the package of each file

	memo map[value]bool
}

type param struct {
	of    types.Object // the function, or the variable that holds one
	index int
	rest  bool // variadic
}

// value is an expression, or one result of a call of several.
type value struct {
	expr  ast.Expr
	index int
}

// site is where text becomes an error or is printed.
type site struct {
	pos  token.Pos
	args []value
}

type finding struct {
	site token.Pos // where it is printed
	pos  token.Pos // where it comes from
	what string
}

func newProgram() *program {
	return &program{
		fset: token.NewFileSet(),
		info: &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{},
			Selections: map[*ast.SelectorExpr]*types.Selection{}, Implicits: map[ast.Node]types.Object{}},
		decls: map[*types.Func]*ast.FuncDecl{}, returns: map[ast.Node][]*ast.ReturnStmt{}, named: map[ast.Node][]*types.Var{},
		calls: map[types.Object][]*ast.CallExpr{}, params: map[*types.Var]param{}, values: map[types.Object][]value{},
		escaped: map[types.Object]bool{}, holder: map[*ast.FuncLit]types.Object{}, decoded: map[types.Object]bool{}, reason: map[string]map[int]bool{}, memo: map[value]bool{}, within: map[string]string{},
	}
}

// add notes what a package's files assign, call and return.
func (p *program) add(pkg *types.Package, files []*ast.File) {
	for _, f := range files {
		name := p.fset.Position(f.Pos()).Filename
		p.reason[name], p.within[name] = map[int]bool{}, pkg.Path()
		for _, group := range f.Comments {
			for _, c := range group.List {
				if strings.HasPrefix(c.Text, "//quote: ") {
					p.reason[name][p.fset.Position(c.Pos()).Line] = true
				}
			}
		}
		v := visitor{p: p, pkg: pkg}
		ast.Walk(v, f)
	}
}

// visitor is in a function, or in none.
type visitor struct {
	p   *program
	pkg *types.Package
	in  ast.Node
}

func (v visitor) Visit(n ast.Node) ast.Visitor {
	p := v.p
	switch n := n.(type) {
	case *ast.FuncDecl:
		f := p.info.Defs[n.Name].(*types.Func)
		p.decls[f] = n
		p.function(n, f, n.Type)
		return visitor{p, v.pkg, n}
	case *ast.FuncLit:
		p.function(n, p.holder[n], n.Type)
		return visitor{p, v.pkg, n}
	case *ast.ReturnStmt:
		p.returns[v.in] = append(p.returns[v.in], n)
		if f, ok := v.in.(*ast.FuncDecl); ok && f.Name.Name == "Error" && f.Recv != nil && len(n.Results) == 1 {
			p.sites = append(p.sites, site{n.Pos(), []value{{n.Results[0], 0}}})
		}
	case *ast.AssignStmt:
		p.assign(n.Lhs, n.Rhs)
	case *ast.ValueSpec:
		var to []ast.Expr
		for _, name := range n.Names {
			to = append(to, name)
		}
		if len(n.Values) > 0 {
			p.assign(to, n.Values)
		}
	case *ast.RangeStmt:
		for _, to := range []ast.Expr{n.Key, n.Value} {
			if to != nil {
				p.assignOne(to, value{n.X, 0})
			}
		}
	case *ast.TypeSwitchStmt:
		if a, ok := n.Assign.(*ast.AssignStmt); ok {
			x := a.Rhs[0].(*ast.TypeAssertExpr).X
			for _, c := range n.Body.List {
				if o := p.info.Implicits[c]; o != nil {
					p.values[o] = append(p.values[o], value{x, 0})
				}
			}
		}
	case *ast.UnaryExpr:
		if n.Op == token.AND {
			if o := p.root(n.X); o != nil {
				p.escaped[o] = true
			}
		}
	case *ast.CompositeLit:
		p.composite(n)
	case *ast.StructType:
		for _, field := range n.Fields.List {
			for _, name := range field.Names {
				if field.Tag != nil && strings.Contains(field.Tag.Value, "json:") && !strings.Contains(field.Tag.Value, `json:"-"`) {
					p.decoded[p.info.Defs[name]] = true
				}
			}
		}
	case *ast.CallExpr:
		p.call(n)
	}
	return v
}

// function notes a function's parameters and named results.
func (p *program) function(n ast.Node, of types.Object, t *ast.FuncType) {
	i := 0
	for _, field := range t.Params.List {
		for _, name := range field.Names {
			if o, ok := p.info.Defs[name].(*types.Var); ok {
				_, rest := field.Type.(*ast.Ellipsis)
				p.params[o] = param{of, i, rest}
			}
			i++
		}
		if len(field.Names) == 0 {
			i++
		}
	}
	if t.Results != nil {
		for _, field := range t.Results.List {
			for _, name := range field.Names {
				if o, ok := p.info.Defs[name].(*types.Var); ok {
					p.named[n] = append(p.named[n], o)
				}
			}
		}
	}
}

func (p *program) assign(to, from []ast.Expr) {
	for i, t := range to {
		if len(from) == len(to) {
			p.assignOne(t, value{from[i], 0})
		} else {
			p.assignOne(t, value{from[0], i})
		}
	}
}

func (p *program) assignOne(to ast.Expr, v value) {
	if o := p.root(to); o != nil {
		p.values[o] = append(p.values[o], v)
		if lit, ok := v.expr.(*ast.FuncLit); ok { // calls of the variable are calls of the function
			p.holder[lit] = o
		}
	}
}

// root is the variable or field that an expression is, or is an element of.
func (p *program) root(e ast.Expr) types.Object {
	switch e := e.(type) {
	case *ast.Ident:
		if o := p.info.Defs[e]; o != nil {
			return o
		}
		return p.info.Uses[e]
	case *ast.SelectorExpr:
		return p.info.Uses[e.Sel]
	case *ast.IndexExpr:
		return p.root(e.X)
	case *ast.SliceExpr:
		return p.root(e.X)
	case *ast.ParenExpr:
		return p.root(e.X)
	case *ast.StarExpr:
		return p.root(e.X)
	}
	return nil
}

// composite notes the values of a struct's fields.
func (p *program) composite(n *ast.CompositeLit) {
	t := p.info.Types[n].Type
	if ptr, ok := t.Underlying().(*types.Pointer); ok {
		t = ptr.Elem()
	}
	s, ok := t.Underlying().(*types.Struct)
	if !ok {
		return
	}
	for i, e := range n.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			p.assignOne(kv.Key, value{kv.Value, 0})
		} else {
			o := s.Field(i)
			p.values[o] = append(p.values[o], value{e, 0})
		}
	}
}

func (p *program) call(n *ast.CallExpr) {
	o := p.callee(n)
	if o != nil {
		p.calls[o] = append(p.calls[o], n)
	}
	if s, ok := p.siteOf(o, n); ok {
		p.sites = append(p.sites, s)
	}
}

// callee is the function that is called, or the variable that holds it.
func (p *program) callee(n *ast.CallExpr) types.Object {
	switch f := ast.Unparen(n.Fun).(type) {
	case *ast.Ident:
		return origin(p.info.Uses[f])
	case *ast.SelectorExpr:
		return origin(p.info.Uses[f.Sel])
	case *ast.IndexExpr:
		return p.callee(&ast.CallExpr{Fun: f.X})
	}
	return nil
}

// origin is the generic function of an instance.
func origin(o types.Object) types.Object {
	if f, ok := o.(*types.Func); ok {
		return f.Origin()
	}
	return o
}

func from(o types.Object, pkg string, names ...string) bool {
	return o != nil && o.Pkg() != nil && o.Pkg().Path() == pkg && (len(names) == 0 || slices.Contains(names, o.Name()))
}

// siteOf tells whether a call makes an error or prints, and of what.
func (p *program) siteOf(o types.Object, n *ast.CallExpr) (site, bool) {
	switch {
	case from(o, "errors", "New"), from(o, "fmt", "Errorf", "Print", "Println", "Printf"):
		return site{n.Pos(), p.printed(n, 0)}, true
	case from(o, "fmt", "Fprint", "Fprintln", "Fprintf"):
		return site{n.Pos(), p.printed(n, 1)}, true
	}
	return site{}, false
}

// printed are the arguments of a call of fmt's that are printed as text.
func (p *program) printed(n *ast.CallExpr, skip int) []value {
	args := n.Args[skip:]
	if name := p.callee(n).Name(); strings.HasSuffix(name, "f") && len(args) > 0 && p.isFormat(n, args[0]) {
		return p.formatted(args[0], args[1:])
	}
	return asValues(args)
}

// isFormat tells whether an argument is a format that is known, with one argument for each of its verbs.
func (p *program) isFormat(n *ast.CallExpr, arg ast.Expr) bool {
	format := p.info.Types[arg].Value
	return format != nil && format.Kind() == constant.String && !n.Ellipsis.IsValid()
}

// formatted are the arguments of a format that are printed as text: all but those with a verb for numbers, such as %x, and types.
func (p *program) formatted(format ast.Expr, args []ast.Expr) (all []value) {
	for i, verb := range verbs(constant.StringVal(p.info.Types[format].Value)) {
		if i < len(args) && !strings.ContainsRune("xXTpdtcUbo", verb) {
			all = append(all, value{args[i], 0})
		}
	}
	return all
}

func asValues(args []ast.Expr) (all []value) {
	for _, a := range args {
		all = append(all, value{a, 0})
	}
	return all
}

// verbs are what a format does with each argument; a width that is one is *.
func verbs(format string) (all []rune) {
	inside := false
	for _, r := range format {
		switch {
		case !inside:
			inside = r == '%'
		case r == '*':
			all = append(all, r)
		case r == '%':
			inside = false
		case unicode.IsLetter(r):
			all, inside = append(all, r), false
		}
	}
	return all
}

func (p *program) check() []finding {
	var all []finding
	for _, s := range p.sites {
		if strings.Contains(p.fset.Position(s.pos).Filename, "/internal/quote/") {
			continue
		}
		for _, a := range s.args {
			for _, f := range p.blame(a, nil) {
				if !p.told(f.pos) && !p.told(s.pos) {
					f.site = s.pos
					all = append(all, f)
				}
			}
		}
	}
	return all
}

// packageOf is the package of a position.
func (p *program) packageOf(pos token.Pos) string { return p.within[p.fset.Position(pos).Filename] }

// told tells whether the line, or the one above, has a comment that says why.
func (p *program) told(pos token.Pos) bool {
	at := p.fset.Position(pos)
	return p.reason[at.Filename][at.Line] || p.reason[at.Filename][at.Line-1]
}

// blame says where a value is not safe: itself, or what is given to a function that formats it.
func (p *program) blame(v value, within []ast.Node) (all []finding) {
	if p.safe(v) || slices.Contains(within, ast.Node(v.expr)) {
		return nil
	}
	within = append(within, v.expr)
	switch e := ast.Unparen(v.expr).(type) {
	case *ast.BinaryExpr:
		return append(p.blame(value{e.X, 0}, within), p.blame(value{e.Y, 0}, within)...)
	case *ast.CallExpr:
		o := p.callee(e)
		args := e.Args
		if from(o, "fmt", "Sprintf", "Sprint", "Sprintln") {
			for _, a := range p.printed(e, 0) {
				all = append(all, p.blame(a, within)...)
			}
			args = nil
		}
		for _, a := range args {
			all = append(all, p.blame(value{a, 0}, within)...)
		}
		if all != nil {
			return all
		}
	case *ast.SelectorExpr:
		if o := p.info.Uses[e.Sel]; !p.decoded[o] {
			if all = p.blameValues(o, within); all != nil {
				return all
			}
		}
	case *ast.Ident:
		o, ok := p.root(e).(*types.Var)
		switch par, isParam := p.params[o]; {
		case !ok:
		case !isParam:
			if all = p.blameValues(o, within); all != nil {
				return all
			}
		case par.rest:
			for _, c := range p.calls[par.of] {
				for _, a := range p.printedBy(c, par.index) {
					all = append(all, p.blame(a, within)...)
				}
			}
			return all
		}
	}
	return []finding{{pos: v.expr.Pos(), what: types.ExprString(v.expr)}}
}

// blameValues says which of the values of a variable or a field are not safe.
func (p *program) blameValues(o types.Object, within []ast.Node) (all []finding) {
	for _, v := range p.values[o] {
		if _, ok := v.expr.(*ast.CallExpr); ok && v.index > 0 {
			continue // one of several results: the variable's place is better than the arguments'
		}
		all = append(all, p.blame(v, within)...)
	}
	return all
}

// printedBy are the arguments from the one at index on, which a function of ours formats.
func (p *program) printedBy(n *ast.CallExpr, index int) []value {
	if index > len(n.Args) {
		return nil
	}
	args := n.Args[index:]
	if index > 0 && p.isFormat(n, n.Args[index-1]) {
		return p.formatted(n.Args[index-1], args)
	}
	return asValues(args)
}
