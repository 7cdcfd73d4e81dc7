// Products of 8 bits: x rounded by 32 columns, sums of products of a group of columns exact. A chunk is 32 columns.
// `codes` has the same half of neighbouring chunks next to each other, as neighbouring invocations read them; `scales`
// of each group the scale, and the sum of its codes. Both lie in workgroup memory, or are buffers.

# set zero = layout.offsets if layout.offsets is integer else 0
# set per_group = layout.group // 4
# if place == "workgroup"
var<workgroup> codes: array<vec4<u32>, ${shape.batch * 2 * shape.stride}>;
var<workgroup> scales: array<vec2<f32>, ${shape.batch * shape.piece * groups}>;
# endif
alias Total = f32;
fn value(total: Total) -> f32 { return total; }

# if place != "buffer"
# include "shimmy/common/quantize.wgsl"
# include "shimmy/common/neighbours.wgsl"
// Prepare chunks of x, from chunk `start` on, of the rows `first` and on.
fn stage(first: u32, start: u32, li: u32) {
    for (var b = 0u; b < ${shape.batch}u; b++) {
        let row = source(first + b);
        let slot = ${"b" if place == "workgroup" else "first + b"};
        for (var begin = 0u; begin < ${shape.piece * quads}u; begin += ${workgroup}u) {
            let i = begin + li;
            let v = prepared(b, row, start * ${quads}u + i);
            let largest = neighbours_max_8(magnitude(v), li);
            let word = quantized(v, largest);
            let sum = neighbours_sum_${per_group}(sum_of_codes(word), li);
            if (i < ${shape.piece * quads}u) {
                codes[(slot * 2u + i / 4u % 2u) * ${shape.stride}u + i / 8u][i % 4u] = word;
                if (i % ${per_group}u == 0u) {
                    let group = slot * ${shape.piece * groups}u + i / ${per_group}u;
                    scales[group] = vec2<f32>(quantized_scale(largest), f32(sum));
                }
            }
        }
    }
}

# endif
# if place != "output"
// Add the share of a chunk of the row to the totals; of x, it is chunk `at` of the rows `first` and on.
fn multiply(totals: ptr<function, array<Total, ${totals}>>, held: Held, chunk: u32, first: u32, at: u32) {
# for r in range(weight_rows)
    let words${r} = w_words_of(held.codes${r});
# for g in range(groups)
    let scale${r}_${g} = w_number_scale_of(held.scale${r}_${g}, chunk * ${groups}u + ${g}u);
# endfor
# endfor
# for b in range(shape.batch)
    {
        let slot = ${"%du" % b if place == "workgroup" else "min(first + %du, count() - 1u)" % b};
        let low = codes[slot * ${2 * shape.stride}u + at];
        let high = codes[slot * ${2 * shape.stride}u + ${shape.stride}u + at];
# for g in range(groups)
        let x${g} = scales[slot * ${shape.piece * groups}u + at * ${groups}u + ${g}u];
# for r in range(weight_rows)
# set total = "(*totals)[%d]" % (r * shape.batch + b)
        var product${r}_${g} = 0;
# for word in range(g * per_group, (g + 1) * per_group)
        product${r}_${g} += dot4I8Packed(words${r}[${word}], ${"high" if word >= 4 else "low"}.${"xyzw"[word % 4]});
# endfor
## What is stored of a code is the code less layout.bias; less the zero, it is what the scale multiplies.
# if layout.bias == zero
        let exact${r}_${g} = f32(product${r}_${g});
# else
        let exact${r}_${g} = fma(${layout.bias - zero}.0, x${g}.y, f32(product${r}_${g}));
# endif
        ${total} = fma(exact${r}_${g}, scale${r}_${g}.x * x${g}.x, ${total});
# if layout.offsets is not integer
        ${total} = fma(scale${r}_${g}.y, x${g}.x * x${g}.y, ${total});
# endif
# endfor
# endfor
    }
# endfor
}
# endif
