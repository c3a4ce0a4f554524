// The dispatcher call: any ATen operator by its schema's name.
#include "guard.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <sstream>
#include <unordered_map>

namespace ct {

namespace {

enum class Kind : uint8_t { Tensor, Int, Float, Bool, Scalar, String, Device, Generator, Other };

// What one argument of a schema takes.
struct ArgKind {
  Kind kind = Kind::Other;
  bool optional = false;       // None is allowed
  bool list = false;           // a list of kind
  bool optional_items = false; // None is allowed inside the list
  int32_t fixed = 0;           // int[2] and the like: one value stands for that many
};

ArgKind kind_of(const c10::Argument &arg) {
  ArgKind k;
  k.fixed = arg.N().value_or(0);
  const c10::Type *t = arg.real_type().get();
  if (t->kind() == c10::TypeKind::OptionalType) {
    k.optional = true;
    t = t->castRaw<c10::OptionalType>()->getElementType().get();
  }
  if (t->kind() == c10::TypeKind::ListType) {
    k.list = true;
    t = t->castRaw<c10::ListType>()->getElementType().get();
    if (t->kind() == c10::TypeKind::OptionalType) {
      k.optional_items = true;
      t = t->castRaw<c10::OptionalType>()->getElementType().get();
    }
  }
  switch (t->kind()) {
    case c10::TypeKind::TensorType: k.kind = Kind::Tensor; break;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
    case c10::TypeKind::ScalarTypeType:
    case c10::TypeKind::LayoutType:
    case c10::TypeKind::MemoryFormatType: k.kind = Kind::Int; break;
    case c10::TypeKind::FloatType:
    case c10::TypeKind::SymFloatType: k.kind = Kind::Float; break;
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType: k.kind = Kind::Bool; break;
    case c10::TypeKind::NumberType: k.kind = Kind::Scalar; break;
    case c10::TypeKind::StringType: k.kind = Kind::String; break;
    case c10::TypeKind::DeviceObjType: k.kind = Kind::Device; break;
    case c10::TypeKind::GeneratorType: k.kind = Kind::Generator; break;
    default: break;
  }
  return k;
}

}  // namespace

using Unary = at::Tensor(const at::Tensor &);
using Binary = at::Tensor(const at::Tensor &, const at::Tensor &);
using Scaled = at::Tensor(const at::Tensor &, const at::Tensor &, const at::Scalar &);
using Sizes = at::Tensor(const at::Tensor &, at::IntArrayRef);
using SymSizes = at::Tensor(const at::Tensor &, c10::SymIntArrayRef);

struct Op {
  c10::OperatorHandle handle;
  std::vector<ArgKind> args;
  std::string schema;
  // Set for operators of that shape.
  std::optional<c10::TypedOperatorHandle<Unary>> unary;
  std::optional<c10::TypedOperatorHandle<Binary>> binary;
  std::optional<c10::TypedOperatorHandle<Scaled>> scaled;
  std::optional<c10::TypedOperatorHandle<Sizes>> sizes;
  std::optional<c10::TypedOperatorHandle<SymSizes>> sym_sizes;

  explicit Op(c10::OperatorHandle h) : handle(std::move(h)) {
    const auto &s = handle.schema();
    for (const auto &a : s.arguments()) args.push_back(kind_of(a));
    std::ostringstream text;
    text << s;
    schema = text.str();
    auto plain = [](const c10::Argument &a) { return a.real_type()->kind() == c10::TypeKind::TensorType && !a.is_out(); };
    const auto &a = s.arguments();
    if (s.returns().size() != 1 || !plain(s.returns()[0]) || a.empty() || !plain(a[0])) return;
    if (s.is_mutable()) return;  // their C++ signatures take references
    if (a.size() == 1) unary.emplace(handle.typed<Unary>());
    if (a.size() == 2 && plain(a[1])) binary.emplace(handle.typed<Binary>());
    if (a.size() == 3 && plain(a[1]) && args[2].kind == Kind::Scalar && !args[2].optional && a[2].name() == "alpha") scaled.emplace(handle.typed<Scaled>());
    if (a.size() == 2 && args[1].list && args[1].kind == Kind::Int && !args[1].optional) {
      // In schemas SymInt[] and int[] are told apart by the real type only.
      const auto element = a[1].real_type()->castRaw<c10::ListType>()->getElementType()->kind();
      if (element == c10::TypeKind::SymIntType)
        sym_sizes.emplace(handle.typed<SymSizes>());
      else
        sizes.emplace(handle.typed<Sizes>());
    }
  }
};

namespace {

const char *tag_name(uint32_t tag) {
  static const char *names[] = {"None",     "a tensor",        "a list of tensors",  "an integer", "a float",  "a bool", "a list of integers",
                                "a list of floats", "a list of bools", "a string", "a device", "a generator", "the default"};
  return tag < sizeof(names) / sizeof(names[0]) ? names[tag] : "an unknown value";
}

[[noreturn]] void mismatch(const Op &op, size_t i, uint32_t tag) {
  const auto &a = op.handle.schema().arguments()[i];
  std::ostringstream s;
  s << "argument " << i + 1 << " (" << a.name() << ") takes " << a.real_type()->repr_str() << ", got " << tag_name(tag)
    << "; schema: " << op.schema;
  throw ArgumentError{s.str()};
}

struct Reader {
  const uint64_t *p, *end;
  uint64_t next() {
    if (p >= end) throw ArgumentError{"truncated argument words"};
    return *p++;
  }
  const uint64_t *take(uint64_t n) {
    if (n > static_cast<uint64_t>(end - p)) throw ArgumentError{"truncated argument words"};
    const uint64_t *at = p;
    p += n;
    return at;
  }
};

inline double as_double(uint64_t w) {
  double d;
  std::memcpy(&d, &w, sizeof d);
  return d;
}

inline c10::Device device_of(int64_t code) {
  return code < 0 ? c10::Device(c10::kCPU) : c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(code));
}

// Decodes one value for argument i and pushes it.
void push(const Op &op, size_t i, Reader &r, torch::jit::Stack &stack) {
  const ArgKind &k = op.args[i];
  const uint64_t head = r.next();
  const uint32_t tag = head & 0xff;
  const uint64_t count = head >> 8;
  if (tag == CT_DEFAULT) {
    const auto &d = op.handle.schema().arguments()[i].default_value();
    if (!d) throw ArgumentError{"argument " + std::to_string(i + 1) + " has no default; schema: " + op.schema};
    stack.push_back(*d);
    return;
  }
  if (tag == CT_NONE) {
    if (k.optional)
      stack.emplace_back();
    else
      mismatch(op, i, tag);
    return;
  }
  if (!k.list) {
    switch (k.kind) {
      case Kind::Tensor:
        if (tag != CT_TENSOR) mismatch(op, i, tag);
        stack.emplace_back(borrow(reinterpret_cast<ct_tensor>(r.next())));
        return;
      case Kind::Int:
        if (tag != CT_INT) mismatch(op, i, tag);
        stack.emplace_back(static_cast<int64_t>(r.next()));
        return;
      case Kind::Float:
        if (tag == CT_FLOAT)
          stack.emplace_back(as_double(r.next()));
        else if (tag == CT_INT)
          stack.emplace_back(static_cast<double>(static_cast<int64_t>(r.next())));
        else
          mismatch(op, i, tag);
        return;
      case Kind::Bool:
        if (tag != CT_BOOL) mismatch(op, i, tag);
        stack.emplace_back(r.next() != 0);
        return;
      case Kind::Scalar:
        if (tag == CT_FLOAT)
          stack.emplace_back(as_double(r.next()));
        else if (tag == CT_INT)
          stack.emplace_back(static_cast<int64_t>(r.next()));
        else if (tag == CT_BOOL)
          stack.emplace_back(r.next() != 0);
        else
          mismatch(op, i, tag);
        return;
      case Kind::String: {
        if (tag != CT_STRING) mismatch(op, i, tag);
        const uint64_t *w = r.take((count + 7) / 8);
        stack.emplace_back(std::string(reinterpret_cast<const char *>(w), count));
        return;
      }
      case Kind::Device:
        if (tag != CT_DEVICE) mismatch(op, i, tag);
        stack.emplace_back(device_of(static_cast<int64_t>(r.next())));
        return;
      case Kind::Generator: {
        if (tag != CT_GENERATOR) mismatch(op, i, tag);
        auto *g = reinterpret_cast<c10::GeneratorImpl *>(r.next());
        stack.emplace_back(at::Generator(c10::intrusive_ptr<c10::GeneratorImpl>::reclaim_copy(g)));
        return;
      }
      case Kind::Other: mismatch(op, i, tag);
    }
  }
  switch (k.kind) {
    case Kind::Tensor: {
      if (tag != CT_TENSOR_LIST) mismatch(op, i, tag);
      const uint64_t *w = r.take(count);
      if (k.optional_items) {
        c10::List<std::optional<at::Tensor>> list;
        list.reserve(count);
        for (uint64_t j = 0; j < count; j++) {
          if (w[j] == 0)
            list.push_back(std::nullopt);
          else
            list.push_back(borrow(reinterpret_cast<ct_tensor>(w[j])));
        }
        stack.emplace_back(std::move(list));
      } else {
        c10::List<at::Tensor> list;
        list.reserve(count);
        for (uint64_t j = 0; j < count; j++) {
          if (w[j] == 0) mismatch(op, i, CT_NONE);
          list.push_back(borrow(reinterpret_cast<ct_tensor>(w[j])));
        }
        stack.emplace_back(std::move(list));
      }
      return;
    }
    case Kind::Int: {
      c10::List<int64_t> list;
      if (tag == CT_INT && k.fixed > 0) {
        const auto v = static_cast<int64_t>(r.next());
        for (int32_t j = 0; j < k.fixed; j++) list.push_back(v);
      } else if (tag == CT_INT_LIST) {
        const uint64_t *w = r.take(count);
        list.reserve(count);
        for (uint64_t j = 0; j < count; j++) list.push_back(static_cast<int64_t>(w[j]));
      } else {
        mismatch(op, i, tag);
      }
      stack.emplace_back(std::move(list));
      return;
    }
    case Kind::Float: {
      if (tag != CT_FLOAT_LIST) mismatch(op, i, tag);
      const uint64_t *w = r.take(count);
      c10::List<double> list;
      list.reserve(count);
      for (uint64_t j = 0; j < count; j++) list.push_back(as_double(w[j]));
      stack.emplace_back(std::move(list));
      return;
    }
    case Kind::Bool: {
      if (tag != CT_BOOL_LIST) mismatch(op, i, tag);
      const uint64_t *w = r.take(count);
      c10::List<bool> list;
      list.reserve(count);
      for (uint64_t j = 0; j < count; j++) list.push_back(w[j] != 0);
      stack.emplace_back(std::move(list));
      return;
    }
    case Kind::Scalar: {
      if (tag != CT_FLOAT_LIST && tag != CT_INT_LIST) mismatch(op, i, tag);
      const uint64_t *w = r.take(count);
      c10::impl::GenericList list(c10::NumberType::get());
      list.reserve(count);
      for (uint64_t j = 0; j < count; j++) {
        if (tag == CT_FLOAT_LIST)
          list.push_back(as_double(w[j]));
        else
          list.push_back(static_cast<int64_t>(w[j]));
      }
      stack.emplace_back(std::move(list));
      return;
    }
    default: mismatch(op, i, tag);
  }
}

void run(const Op &op, const uint64_t *args, int32_t nargs, torch::jit::Stack &stack) {
  const size_t want = op.args.size();
  stack.reserve(want < 4 ? 4 : want);
  Reader r{args, args + nargs};
  size_t i = 0;
  for (; r.p < r.end; i++) {
    if (i >= want)
      throw ArgumentError{"takes " + std::to_string(want) + " arguments, got more; schema: " + op.schema};
    push(op, i, r, stack);
  }
  for (; i < want; i++) {
    const auto &d = op.handle.schema().arguments()[i].default_value();
    if (!d)
      throw ArgumentError{"argument " + std::to_string(i + 1) + " (" + op.handle.schema().arguments()[i].name() +
                          ") is missing and has no default; schema: " + op.schema};
    stack.push_back(*d);
  }
  op.handle.callBoxed(stack);
}

// Writes results as words; counts on past the end of the room, so that the caller learns how much is needed.
struct Writer {
  uint64_t *out;
  int64_t cap, n = 0;
  void put(uint64_t w) {
    if (n < cap) out[n] = w;
    n++;
  }
};

// The words that results take. Throws for results that have no encoding, before encode gives handles away that nobody
// would release. (No operator that can be called from here returns strings or lists of numbers.)
uint64_t words_of(const torch::jit::Stack &stack, const Op &op) {
  uint64_t n = 0;
  for (const auto &v : stack) {
    n += 1;
    if (v.isTensorList())
      n += v.toTensorList().size();
    else if (v.isTensor() || v.isNone() || v.isInt() || v.isSymInt() || v.isDouble() || v.isBool())
      n += 1;
    else
      throw ArgumentError{"a result of kind " + v.tagKind() + " cannot be returned; schema: " + op.schema};
  }
  return n;
}

// Writes what words_of has measured.
void encode(torch::jit::Stack &stack, Writer &w) {
  auto bits = [](double d) {
    uint64_t u;
    std::memcpy(&u, &d, sizeof u);
    return u;
  };
  for (auto &v : stack) {
    if (v.isTensor()) {
      at::Tensor t = std::move(v).toTensor();
      if (!t.defined()) {
        w.put(CT_NONE);
      } else {
        w.put(CT_TENSOR);
        w.put(reinterpret_cast<uint64_t>(give(std::move(t))));
      }
    } else if (v.isNone()) {
      w.put(CT_NONE);
    } else if (v.isTensorList()) {
      auto list = v.toTensorList();
      w.put(CT_TENSOR_LIST | (list.size() << 8));
      for (size_t j = 0; j < list.size(); j++) w.put(reinterpret_cast<uint64_t>(give(list.get(j))));
    } else if (v.isInt() || v.isSymInt()) {
      w.put(CT_INT);
      w.put(static_cast<uint64_t>(v.toInt()));
    } else if (v.isDouble()) {
      w.put(CT_FLOAT);
      w.put(bits(v.toDouble()));
    } else {
      w.put(CT_BOOL);
      w.put(v.toBool());
    }
  }
}

// Operators live as long as the process: the table is never destroyed, so that calls during exit stay valid.
struct Table {
  std::mutex mu;
  std::unordered_map<std::string, std::unique_ptr<Op>> ops;
};
Table &table() {
  static auto *t = new Table;
  return *t;
}

// Runs an operator of tensors whose other arguments take their defaults.
ct_tensor boxed(const Op &op, std::initializer_list<ct_tensor> tensors) {
  uint64_t words[4];
  int32_t n = 0;
  for (ct_tensor t : tensors) {
    words[n++] = CT_TENSOR;
    words[n++] = reinterpret_cast<uint64_t>(t);
  }
  torch::jit::Stack stack;
  run(op, words, n, stack);
  if (stack.size() != 1 || !stack[0].isTensor()) throw ArgumentError{"does not return one tensor; schema: " + op.schema};
  return give(std::move(stack[0]).toTensor());
}

inline const Op &op_of(ct_op op) { return *reinterpret_cast<const Op *>(op); }

}  // namespace

ct_error *make_error(int32_t kind, const std::string &msg) {
  auto *e = static_cast<ct_error *>(std::malloc(sizeof(ct_error)));
  if (!e) std::abort();
  e->kind = kind;
  e->msg = static_cast<char *>(std::malloc(msg.size() + 1));
  if (e->msg) std::memcpy(e->msg, msg.c_str(), msg.size() + 1);
  return e;
}

}  // namespace ct

using namespace ct;

extern "C" {

void ct_error_free(ct_error *e) {
  if (!e) return;
  std::free(e->msg);
  std::free(e);
}

// The schemas of all operators of a name, each on a line after a line break.
static std::string overloads_of(const char *name) {
  std::ostringstream text;
  for (const auto &op : c10::Dispatcher::singleton().getAllOpNames()) {
    if (op.name != name) continue;
    if (auto handle = c10::Dispatcher::singleton().findSchema(op)) text << '\n' << handle->schema();
  }
  return text.str();
}

ct_error *ct_op_find(const char *name, const char *overload, ct_op *out) {
  return guarded(0, [&] {
    std::string key = std::string(name) + "." + overload;
    Table &t = table();
    std::lock_guard<std::mutex> lock(t.mu);
    auto it = t.ops.find(key);
    if (it == t.ops.end()) {
      auto handle = c10::Dispatcher::singleton().findSchema({name, overload});
      if (!handle) {
        throw ArgumentError{std::string("no operator named ") + name + (*overload ? "." : "") + overload + overloads_of(name)};
      }
      it = t.ops.emplace(key, std::make_unique<Op>(*handle)).first;
    }
    *out = reinterpret_cast<ct_op>(it->second.get());
  });
}

const char *ct_op_schema(ct_op op) { return op_of(op).schema.c_str(); }

ct_error *ct_call(ct_op o, uint32_t mode, const uint64_t *args, int32_t nargs, uint64_t *outs, int32_t cap,
                  int32_t *nouts) {
  return guarded(mode, [&] {
    const Op &op = op_of(o);
    torch::jit::Stack stack;
    run(op, args, nargs, stack);
    const uint64_t need = words_of(stack, op);
    if (need <= static_cast<uint64_t>(cap)) {
      Writer w{outs, cap};
      encode(stack, w);
      *nouts = static_cast<int32_t>(w.n);
      return;
    }
    auto *big = static_cast<uint64_t *>(std::malloc(need * sizeof(uint64_t)));
    if (!big) throw std::bad_alloc();
    Writer w{big, static_cast<int64_t>(need)};
    encode(stack, w);
    outs[0] = reinterpret_cast<uint64_t>(big);
    *nouts = -static_cast<int32_t>(w.n);
  });
}

ct_error *ct_call1(ct_op o, uint32_t mode, const uint64_t *args, int32_t nargs, ct_tensor *out) {
  return guarded(mode, [&] {
    const Op &op = op_of(o);
    torch::jit::Stack stack;
    run(op, args, nargs, stack);
    if (stack.size() != 1 || !stack[0].isTensor())
      throw ArgumentError{"does not return one tensor; schema: " + op.schema};
    *out = give(std::move(stack[0]).toTensor());
  });
}

ct_error *ct_call0(ct_op o, uint32_t mode, const uint64_t *args, int32_t nargs) {
  return guarded(mode, [&] {
    torch::jit::Stack stack;
    run(op_of(o), args, nargs, stack);
  });
}

void ct_buffer_free(void *p) { std::free(p); }

ct_error *ct_unary(ct_op o, uint32_t mode, ct_tensor x, ct_tensor *out) {
  return guarded(mode, [&] {
    const Op &op = op_of(o);
    *out = op.unary ? give(op.unary->call(Borrowed(x).t)) : boxed(op, {x});
  });
}

ct_error *ct_binary(ct_op o, uint32_t mode, ct_tensor x, ct_tensor y, ct_tensor *out) {
  return guarded(mode, [&] {
    const Op &op = op_of(o);
    if (op.binary)
      *out = give(op.binary->call(Borrowed(x).t, Borrowed(y).t));
    else if (op.scaled)
      *out = give(op.scaled->call(Borrowed(x).t, Borrowed(y).t, 1));
    else
      *out = boxed(op, {x, y});
  });
}

ct_error *ct_with_sizes(ct_op o, uint32_t mode, ct_tensor x, const int64_t *sizes, int32_t n, ct_tensor *out) {
  return guarded(mode, [&] {
    const Op &op = op_of(o);
    const at::IntArrayRef list(sizes, static_cast<size_t>(n));
    if (op.sym_sizes)
      *out = give(op.sym_sizes->call(Borrowed(x).t, c10::fromIntArrayRefSlow(list)));
    else if (op.sizes)
      *out = give(op.sizes->call(Borrowed(x).t, list));
    else
      throw ArgumentError{"does not take a tensor and a list of integers; schema: " + op.schema};
  });
}

}  // extern "C"
