## Weights as scale * number + offset, a scale and an offset for 16 or 32 columns of a row; a number is a code, or what a
## codebook has for it. How they are stored, plugins/shimmy_plugins/backends/wgpu/layouts.py says: planes of the codes'
## bits, streams of scales.

# import "shimmy/weights/parts.wgsl" as parts

# macro bindings(layout, prefix, first)
# for part in layout.parts
@group(0) @binding(${first + loop.index0}) var<storage, read> ${prefix}_${part.name}: array<${part.element}>;
# endfor
# endmacro

# macro functions(layout, prefix, columns)
# set blocks = (columns + 31) // 32
# set groups = 32 // layout.group
# set centre = layout.offsets if layout.offsets is integer else 0
## Weights are loaded as they are stored, and unpacked from that: a kernel may do something else in between.
// What is stored: codes of the 32 columns from 32 * block on, scale and offset of a group of ${layout.group} columns.
struct ${prefix}_Codes {
# for width in layout.planes
    plane${width}: ${{8: "array<vec4<u32>, 2>", 4: "vec4<u32>", 2: "vec2<u32>", 1: "u32"}[width]},
# endfor
}
struct ${prefix}_Scale {
# for stream in layout.streams
# for part in stream.parts
    ${part.name}: ${part.element},
# endfor
# endfor
}

fn ${prefix}_load_codes(row: u32, block: u32) -> ${prefix}_Codes {
    let i = row * ${blocks}u + block;
    return ${prefix}_Codes(
# for width in layout.planes
# if width == 8
        array<vec4<u32>, 2>(${prefix}_plane8[2u * i], ${prefix}_plane8[2u * i + 1u]),
# else
        ${prefix}_plane${width}[i],
# endif
# endfor
    );
}

fn ${prefix}_load_scale(row: u32, group: u32) -> ${prefix}_Scale {
    return ${prefix}_Scale(
# for stream in layout.streams
# set units = stream.units
        ${prefix}_${units.name}[row * ${units.row_elements(columns)}u + group / ${stream.layout.span * stream.units_per_word}u],
# if stream.layout.factor
# set factors = stream.factors
        ${prefix}_${factors.name}[row * ${factors.row_elements(columns)}u + group / ${stream.factors_per_word}u],
# endif
# endfor
    );
}

${parts.look_up(layout, prefix)}
// Four neighbouring columns' numbers to a word, as signed bytes.
fn ${prefix}_words_of(stored: ${prefix}_Codes) -> array<u32, 8> {
    return array<u32, 8>(
## Word k of the codes is in word k % width of a plane, k // width * width bits up.
# for word in range(8)
# set low = namespace(bits=0)
        ${prefix ~ "_look_up(" if layout.codebook}
# for width in layout.planes
# set component = {8: "[%d].%s" % (word // 4, "xyzw"[word % 4]), 4: "." ~ "xyzw"[word % 4], 2: "." ~ "xy"[word % 2], 1: ""}[width]
# set mask = "0x%08xu" % ((2 ** width - 1) * 0x01010101)
        ${"| " if low.bits}(((stored.plane${width}${component} >> ${word // width * width}u) & ${mask}) << ${low.bits}u)
# set low.bits = low.bits + width
# endfor
        ${")," if layout.codebook else ","}
# endfor
    );
}

// Four numbers of a word as floats, exactly; ${centre} is taken off, the number of weight 0.
fn ${prefix}_numbers(word: u32) -> vec4<f32> {
# if layout.bias
    let bytes = word ^ 0x80808080u;
# else
    let bytes = word;
# endif
    // A byte in the lowest bits of 2^23 is added to it: cheaper than to convert it.
    let wide = vec4<u32>(bytes, bytes >> 8u, bytes >> 16u, bytes >> 24u) & vec4<u32>(0xffu);
    return bitcast<vec4<f32>>(wide | vec4<u32>(0x4b000000u)) - vec4<f32>(${8388608 + centre}.0);
}

${parts.scale_functions(layout, prefix)}
// Of a group: weight = x * number + y, with numbers as above.
fn ${prefix}_number_scale_of(stored: ${prefix}_Scale, group: u32) -> vec2<f32> {
# if layout.streams[0].pairs
    return ${prefix}_both_of(stored, group);
# elif layout.streams | length == 2
    return vec2<f32>(${prefix}_scale_of(stored, group), ${prefix}_offset_of(stored, group));
# else
    return vec2<f32>(${prefix}_scale_of(stored, group), 0.0);
# endif
}

// The codes of the 32 columns from 32 * block on, four to a word.
fn ${prefix}_words(row: u32, block: u32) -> array<u32, 8> {
    return ${prefix}_words_of(${prefix}_load_codes(row, block));
}

// Of a group: weight = x * code + y, with codes as in ${prefix}_words.
fn ${prefix}_scale(row: u32, group: u32) -> vec2<f32> {
    let scale = ${prefix}_number_scale_of(${prefix}_load_scale(row, group), group);
    return vec2<f32>(scale.x, fma(scale.x, ${layout.bias - centre}.0, scale.y));
}

// The weights of the 32 columns from 32 * block on.
fn ${prefix}_values(row: u32, block: u32) -> array<vec4<f32>, 8> {
    let words = ${prefix}_words(row, block);
# for group in range(groups)
# set index = "block * %du + %du" % (groups, group)
    let scale${group} = ${prefix}_number_scale_of(${prefix}_load_scale(row, ${index}), ${index});
# endfor
    return array<vec4<f32>, 8>(
# for word in range(8)
# set scale = "scale%d" % (word * groups // 8)
# if layout.offsets is integer
        ${prefix}_numbers(words[${word}]) * ${scale}.x,
# else
        fma(${prefix}_numbers(words[${word}]), vec4<f32>(${scale}.x), vec4<f32>(${scale}.y)),
# endif
# endfor
    );
}
# endmacro
