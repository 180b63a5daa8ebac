import assert from "node:assert/strict";
import test from "node:test";
import { arrange, code, coordinates, graticuleStep, isDark, short, step } from "../src/format.ts";
import type { Layer } from "../src/types.ts";

const layer = (id: string): Layer => ({
  id, name: id, url: `/${id}`, bounds: [[0, 0], [1, 1]], maxNativeZoom: 10, visible: true, opacity: 1, legend: null, threshold: null,
});

test("coordinates carry a hemisphere and wrap at the dateline", () => {
  assert.equal(coordinates(-12.5, 190), "12.50000° S  170.00000° W");
  assert.equal(coordinates(0, -180), "0.00000° N  180.00000° W");
});

test("values are whole or have four significant digits", () => {
  assert.equal(short(1234567), "1234567");
  assert.equal(short(0.123456), "0.1235");
  assert.equal(short(null), "no data");
  assert.equal(short(Number.NaN), "no data");
});

test("an arrangement keeps order, visibility and opacity, and puts a new layer where Python has it", () => {
  const kept = [{ id: "b", visible: false, opacity: 0.5 }, { id: "a", visible: true, opacity: 1 }];
  const arranged = arrange([layer("new"), layer("a"), layer("b")], kept);
  assert.deepEqual(arranged.map(({ id, visible, opacity }) => [id, visible, opacity]), [["new", true, 1], ["b", false, 0.5], ["a", true, 1]]);
});

test("an item moves one step and stops at the ends", () => {
  assert.deepEqual(step(["a", "b", "c"], 1, -1), ["b", "a", "c"]);
  assert.deepEqual(step(["a", "b"], 1, 1), ["a", "b"]);
});

test("codes of scores span 1 to 65535, are clipped and keep their order", () => {
  assert.equal(code(0, 0, 2), 1);
  assert.equal(code(2, 0, 2), 65535);
  assert.equal(code(9, 0, 2), 65535);
  assert.equal(code(5, 5, 5), 1);
  assert.ok(code(0.5, 0, 2) < code(0.6, 0, 2));
});

test("the graticule has at most six lines over the view", () => {
  for (const span of [0.004, 0.03, 1, 7, 100, 360]) assert.ok(span / graticuleStep(span) <= 8);
});

test("a ground is dark or light by its luminance", () => {
  for (const dark of ["#0e1117", "#111", "rgb(14, 17, 23)", "#0000ff"]) assert.ok(isDark(dark), dark);
  for (const light of ["#ffffff", " #fff", "rgba(250, 250, 250, 1)", "", "#00ff00"]) assert.ok(!isDark(light), light);
});
