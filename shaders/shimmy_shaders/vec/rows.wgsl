// The rows of x that are multiplied: how many, where, and their columns, normed if that is wanted.
// Needs the bindings step and, if x is yet to be prepared, x and norm.

# set aligned = columns % 4 == 0
# set row_quads = (columns + 3) // 4
# include "shimmy/common/step.wgsl"

fn count() -> u32 { return ${"step_outputs()" if late else "step_rows()"}${" * %du" % slots.used if slots}; }
# if place != "buffer"
// The row of x that is number `index` of those; the last one for numbers past the end.
fn source(index: u32) -> u32 {
    let existing = min(index, count() - 1u)${" / %du" % slots.used if slots and not slots.own};
    return ${"existing" if not late else "step_output(existing)" if picked else "step_first_output() + existing"};
}

# set apart = row_quads if aligned else columns
# for name, array, first in [("x", "x", "row * %du + " % apart), ("norm", "norm", ""), ("norm_bias", "norm", "%du + " % apart)]
# if name == "x" or norm is not none and (name == "norm" or norm.bias)
// Columns 4 * quad and on; 0 past the end.
fn quad_of_${name}(${"row: u32, " if name == "x"}quad: u32) -> vec4<f32> {
# if aligned
    if (quad >= ${row_quads}u) { return vec4<f32>(); }
    return ${array}[${first}quad];
# else
    var v = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if (4u * quad + i < ${columns}u) { v[i] = ${array}[${first}4u * quad + i]; }
    }
    return v;
# endif
}

# endif
# endfor
# if norm is none
fn prepare(first: u32, li: u32) {}
fn prepared(b: u32, row: u32, quad: u32) -> vec4<f32> { return quad_of_x(row, quad); }
# else
# include "shimmy/common/reduce.wgsl"
# if total
// x, normed, is added to base: of each row, 1 / sqrt(mean of squares + eps) of x, and the sum.
var<workgroup> term_factors: array<f32, ${shape.batch}>;
fn quad_of_total(b: u32, row: u32, quad: u32) -> vec4<f32> {
    let at = row * ${row_quads}u + quad;
    return fma(x[at] * term_factors[b], term_weight[quad], base[at]);
}
// The sum of the row of number `first` goes to memory.
fn keep_total(first: u32, li: u32) {
    let row = source(first);
    for (var quad = li; quad < ${row_quads}u; quad += ${workgroup}u) {
        kept[row * ${row_quads}u + quad] = quad_of_total(0u, row, quad);
    }
}
# endif
// Of each row: 1 / sqrt(variance + eps), or of the mean of squares${", and the mean" if norm.centred}.
var<workgroup> factors: array<f32, ${shape.batch}>;
# if norm.centred
var<workgroup> means: array<f32, ${shape.batch}>;
# endif

fn sum_of_four(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn prepare(first: u32, li: u32) {
    for (var b = 0u; b < ${shape.batch}u; b++) {
        let row = source(first + b);
# if total
        var terms = vec4<f32>();
        for (var quad = li; quad < ${row_quads}u; quad += ${workgroup}u) {
            let v = quad_of_x(row, quad);
            terms = fma(v, v, terms);
        }
        let mean_square = workgroup_sum(sum_of_four(terms), li) / ${columns}.0;
        if (li == 0u) { term_factors[b] = 1.0 / sqrt(mean_square + ${total.eps}); }
        workgroupBarrier();
# endif
# if norm.centred
        var numbers = vec4<f32>();
        for (var quad = li; quad < ${row_quads}u; quad += ${workgroup}u) { numbers += quad_of_x(row, quad); }
        let mean = workgroup_sum(sum_of_four(numbers), li) / ${columns}.0;
# endif
        var squares = vec4<f32>();
        for (var quad = li; quad < ${row_quads}u; quad += ${workgroup}u) {
# if norm.centred
            var v = quad_of_x(row, quad) - mean;
# if not aligned
            v = select(vec4<f32>(), v, vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(${columns}u));
# endif
# elif total
            let v = quad_of_total(b, row, quad);
# else
            let v = quad_of_x(row, quad);
# endif
            squares = fma(v, v, squares);
        }
        let sum = workgroup_sum(sum_of_four(squares), li);
        if (li == 0u) {
            factors[b] = 1.0 / sqrt(sum / ${columns}.0 + ${norm.eps});
# if norm.centred
            means[b] = mean;
# endif
        }
    }
    workgroupBarrier();
}
// Some columns of row b, as they are multiplied.
fn prepared(b: u32, row: u32, quad: u32) -> vec4<f32> {
# if norm.centred
    let normed = (quad_of_x(row, quad) - means[b]) * factors[b] * quad_of_norm(quad);
# elif total
    if (quad >= ${row_quads}u) { return vec4<f32>(); }
    let normed = quad_of_total(b, row, quad) * factors[b] * quad_of_norm(quad);
# else
    let normed = quad_of_x(row, quad) * factors[b] * quad_of_norm(quad);
# endif
    return ${"normed + quad_of_norm_bias(quad)" if norm.bias else "normed"};
}
# endif
# endif
