// Products in F32. A chunk is ${shape.chunk} columns, ${quads} quads. `columns` has the same quads of neighbouring
// chunks next to each other, as neighbouring invocations read them; it lies in workgroup memory, or is a buffer.

# set codes = layout.bits is defined
## Without offsets, sums of a group are multiplied with its scale, not each weight.
# set numbers = codes and layout.offsets is integer
# if place == "workgroup"
var<workgroup> columns: array<vec4<f32>, ${shape.batch * quads * shape.stride}>;
# endif
// Four sums, to be added at the end: each addition waits for the one before.
alias Total = vec4<f32>;
fn value(total: Total) -> f32 { return (total.x + total.y) + (total.z + total.w); }

# if place != "buffer"
// Prepare chunks of x, from chunk `start` on, of the rows `first` and on.
fn stage(first: u32, start: u32, li: u32) {
    for (var b = 0u; b < ${shape.batch}u; b++) {
        let row = source(first + b);
        let slot = ${"b" if place == "workgroup" else "first + b"};
        for (var i = li; i < ${shape.piece * quads}u; i += ${workgroup}u) {
            let v = prepared(b, row, start * ${quads}u + i);
            columns[(slot * ${quads}u + i % ${quads}u) * ${shape.stride}u + i / ${quads}u] = v;
        }
    }
}

# endif
# if place != "output"
// Add the share of a chunk of the row to the totals; of x, it is chunk `at` of the rows `first` and on.
fn multiply(totals: ptr<function, array<Total, ${totals}>>, held: Held, chunk: u32, first: u32, at: u32) {
# for r in range(weight_rows)
# if codes
    let words${r} = w_words_of(held.codes${r});
# for g in range(groups)
    let scale${r}_${g} = w_number_scale_of(held.scale${r}_${g}, chunk * ${groups}u + ${g}u);
# endfor
# for q in range(quads)
# set scale = "scale%d_%d" % (r, q * groups // quads)
# if numbers
    let weight${r}_${q} = w_numbers(words${r}[${q}]);
# else
    let weight${r}_${q} = fma(w_numbers(words${r}[${q}]), vec4<f32>(${scale}.x), vec4<f32>(${scale}.y));
# endif
# endfor
# else
    let weights${r} = w_eight_of(held.values${r});
# for q in range(quads)
    let weight${r}_${q} = weights${r}[${q}];
# endfor
# endif
# endfor
# for b in range(shape.batch)
    {
        let slot = ${"%du" % b if place == "workgroup" else "min(first + %du, count() - 1u)" % b};
# for q in range(quads)
        let x${q} = columns[slot * ${quads * shape.stride}u + ${q * shape.stride}u + at];
# endfor
# for r in range(weight_rows)
# set total = "(*totals)[%d]" % (r * shape.batch + b)
# if numbers
# for g in range(groups)
# set first = g * quads // groups
        var sum${r}_${g} = weight${r}_${first} * x${first};
# for q in range(first + 1, first + quads // groups)
        sum${r}_${g} = fma(weight${r}_${q}, x${q}, sum${r}_${g});
# endfor
        ${total} = fma(vec4<f32>(scale${r}_${g}.x), sum${r}_${g}, ${total});
# endfor
# else
# for q in range(quads)
        ${total} = fma(weight${r}_${q}, x${q}, ${total});
# endfor
# endif
# endfor
    }
# endfor
}
# endif
