package main

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

const module = "github.com/onestep-go/onestep/"

// text tells whether printing a value of a type prints text that the type does not know: strings, what holds them, and interfaces.
func text(t types.Type, seen []types.Type) bool {
	if slices.Contains(seen, t) {
		return false
	}
	seen = append(seen, t)
	switch u := t.Underlying().(type) {
	case *types.Basic:
		return u.Info()&types.IsString != 0 || u.Kind() == types.UnsafePointer
	case *types.Slice:
		return text(u.Elem(), seen) || bytes(u.Elem())
	case *types.Array:
		return text(u.Elem(), seen) || bytes(u.Elem())
	case *types.Pointer:
		return text(u.Elem(), seen)
	case *types.Map:
		return text(u.Elem(), seen) || text(u.Key(), seen)
	case *types.Struct:
		for i := range u.NumFields() {
			if text(u.Field(i).Type(), seen) {
				return true
			}
		}
	case *types.Interface:
		return true
	}
	return false
}

// checked tells whether values of a type are what its decoder lets through, or a type's name.
func checked(t types.Type) bool {
	if n, ok := t.(*types.Named); ok && n.Obj().Pkg() != nil && n.Obj().Pkg().Path() == "reflect" {
		return true
	}
	m := types.NewMethodSet(types.NewPointer(t))
	for i := range m.Len() {
		if name := m.At(i).Obj().Name(); name == "UnmarshalText" || name == "UnmarshalJSON" {
			return true
		}
	}
	return false
}

func bytes(t types.Type) bool {
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Kind() == types.Uint8
}

// safe tells whether a value holds no text from outside.
func (p *program) safe(v value) bool {
	if known, ok := p.memo[v]; ok {
		return known
	}
	p.memo[v] = true // of a value that depends on itself, the others decide
	is := p.isSafe(v)
	p.memo[v] = is
	return is
}

func (p *program) isSafe(v value) bool {
	tv, ok := p.info.Types[v.expr]
	if ok && tv.Value != nil || ok && tv.IsNil() {
		return true
	}
	t := tv.Type
	if id, isIdent := v.expr.(*ast.Ident); isIdent && t == nil {
		if o := p.root(id); o != nil {
			t = o.Type()
		}
	}
	if tuple, ok := t.(*types.Tuple); ok && v.index < tuple.Len() {
		t = tuple.At(v.index).Type()
	}
	if t != nil && (!text(t, nil) || checked(t)) {
		return true
	}
	if t != nil && types.Implements(t, errorType) || t != nil && types.Identical(t, errorType) {
		return p.safeError(v)
	}
	switch e := v.expr.(type) {
	case *ast.ParenExpr:
		return p.safe(value{e.X, v.index})
	case *ast.BinaryExpr:
		return p.safe(value{e.X, 0}) && p.safe(value{e.Y, 0})
	case *ast.IndexExpr:
		return p.safe(value{e.X, 0})
	case *ast.SliceExpr:
		return p.safe(value{e.X, 0})
	case *ast.StarExpr:
		return p.safe(value{e.X, 0})
	case *ast.TypeAssertExpr:
		return p.safe(value{e.X, 0})
	case *ast.UnaryExpr:
		return e.Op != token.ARROW && p.safe(value{e.X, 0})
	case *ast.CompositeLit:
		for _, x := range e.Elts {
			if kv, ok := x.(*ast.KeyValueExpr); ok {
				if _, isStruct := t.Underlying().(*types.Struct); !isStruct && !p.safe(value{kv.Key, 0}) {
					return false
				}
				x = kv.Value
			}
			if !p.safe(value{x, 0}) {
				return false
			}
		}
		return true
	case *ast.FuncLit:
		return true
	case *ast.CallExpr:
		return p.safeCall(e, v.index, t)
	case *ast.Ident:
		return p.safeObject(p.root(e))
	case *ast.SelectorExpr:
		return p.safeObject(p.info.Uses[e.Sel])
	}
	return false
}

var errorType = types.Universe.Lookup("error").Type().Underlying().(*types.Interface)

// safeObject follows a variable or a field to what is assigned to it.
func (p *program) safeObject(o types.Object) bool {
	v, ok := o.(*types.Var)
	if !ok {
		return ok || o == nil
	}
	v = v.Origin()
	if v.Pkg() == nil || !strings.HasPrefix(v.Pkg().Path()+"/", module) {
		return v.Pkg() != nil && v.Pkg().Path() == "os" && v.Name() != "Args"
	}
	if _, isFunc := v.Type().Underlying().(*types.Signature); isFunc {
		return true
	}
	if p.escaped[v] || p.decoded[v] {
		return false
	}
	if par, ok := p.params[v]; ok {
		return p.safeParam(v, par)
	}
	values := p.values[v]
	if v.IsField() && len(values) == 0 {
		return false // decoded, or a user's
	}
	for _, x := range values {
		if !p.safe(x) {
			return false
		}
	}
	return true
}

// safeParam asks all callers.
func (p *program) safeParam(v *types.Var, par param) bool {
	if par.of == nil {
		return false // a function without a name
	}
	calls := p.calls[par.of]
	if len(calls) == 0 {
		return false
	}
	for _, x := range p.values[v] {
		if !p.safe(x) {
			return false
		}
	}
	for _, c := range calls {
		args := c.Args
		if len(args) == 1 && par.index > 0 {
			if !p.safe(value{args[0], par.index}) {
				return false
			}
			continue
		}
		if par.index >= len(args) {
			continue
		}
		last := par.index + 1
		if par.rest {
			last = len(args)
		}
		for _, a := range args[par.index:last] {
			if !p.safe(value{a, 0}) {
				return false
			}
		}
	}
	return true
}

// safeCall follows a call to what it returns.
func (p *program) safeCall(c *ast.CallExpr, index int, t types.Type) bool {
	if tv := p.info.Types[c.Fun]; tv.IsType() { // a conversion
		return p.safe(value{c.Args[0], 0})
	}
	o := p.callee(c)
	of := func() bool { // all that it is given
		for _, a := range c.Args {
			if !p.safe(value{a, 0}) {
				return false
			}
		}
		if sel, ok := c.Fun.(*ast.SelectorExpr); ok && p.info.Selections[sel] != nil {
			return p.safe(value{sel.X, 0})
		}
		return true
	}
	if _, ok := o.(*types.Builtin); ok {
		return of()
	}
	switch f := o.(type) {
	case nil:
		if lit, ok := ast.Unparen(c.Fun).(*ast.FuncLit); ok {
			return p.safeReturns(lit, index)
		}
		return false
	case *types.Var:
		values := p.values[f]
		if len(values) == 0 {
			return false
		}
		for _, v := range values {
			switch e := v.expr.(type) {
			case *ast.FuncLit:
				if !p.safeReturns(e, index) {
					return false
				}
			default:
				return false
			}
		}
		return true
	case *types.Func:
		pkg := ""
		if f.Pkg() != nil {
			pkg = f.Pkg().Path()
		}
		if pkg == module+"internal/quote" {
			return true
		}
		if sel, ok := c.Fun.(*ast.SelectorExpr); ok && f.Name() == "Error" && len(c.Args) == 0 {
			return p.safe(value{sel.X, 0})
		}
		if d := p.decls[f]; d != nil && d.Body != nil {
			return p.safeReturns(d, index)
		}
		switch pkg {
		case "strings", "bytes", "slices", "maps", "fmt", "strconv", "cmp", "path", "path/filepath", "reflect", "time", "runtime", "errors", "math/big":
			return of()
		}
	}
	return false
}

// safeReturns looks at what a function returns.
func (p *program) safeReturns(f ast.Node, index int) bool {
	for _, r := range p.returns[f] {
		switch {
		case len(r.Results) == 0:
			if index >= len(p.named[f]) || !p.safeObject(p.named[f][index]) {
				return false
			}
		case index < len(r.Results):
			if !p.safe(value{r.Results[index], 0}) {
				return false
			}
		default: // return f()
			if !p.safe(value{r.Results[0], index}) {
				return false
			}
		}
	}
	return true
}

// foreign are the packages whose errors repeat what they were given.
var foreign = []string{"encoding/json", "strconv"}

// safeError tells whether an error is made here, where its own text is checked, or by a package that repeats nothing.
func (p *program) safeError(v value) bool {
	switch e := ast.Unparen(v.expr).(type) {
	case *ast.CallExpr:
		o := p.callee(e)
		return o == nil || o.Pkg() == nil || !slices.Contains(foreign, o.Pkg().Path()) || strings.HasPrefix(o.Name(), "Marshal")
	case *ast.Ident:
		o := p.root(e)
		for _, x := range p.values[o] {
			if !p.safe(x) {
				return false
			}
		}
	}
	return true
}
