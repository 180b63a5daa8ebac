// The layer tree: order, visibility, opacity, threshold, legend, and which two layers to compare.
import { short } from "./format.ts";
import type { Layer } from "./types.ts";

export interface PanelActions {
  show(id: string, visible: boolean): void;
  fade(id: string, opacity: number): void;
  move(id: string, by: -1 | 1): void;
  cut(id: string, value: number, settled: boolean): void;
  zoom(id: string): void;
  compare(sides: [string, string] | null): void;
}

function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export class Panel {
  readonly element: HTMLDetailsElement;
  private readonly list = make("div", { className: "gd-layers" });
  private readonly compare = make("div", { className: "gd-compare" });
  private sides: [string, string] | null = null;

  constructor(private readonly actions: PanelActions) {
    const title = make("summary", { title: "Layers: order, opacity, comparison" }, "Layers");
    this.element = make("details", { className: "gd-panel", open: true }, title, this.list, this.compare);
  }

  /** Rebuild the rows; `layers` are top first. */
  draw(layers: Layer[], sides: [string, string] | null): void {
    this.sides = sides;
    if (layers.length === 0)
      this.list.replaceChildren(make("p", { className: "gd-empty" }, "No layer yet: add a scene on the Scenes page."));
    else this.list.replaceChildren(...layers.map((layer, index) => this.row(layer, index, layers.length)));
    this.compare.replaceChildren(...(layers.length > 1 ? this.comparison(layers) : []));
  }

  private row(layer: Layer, index: number, count: number): HTMLElement {
    const shown = make("input", { type: "checkbox", checked: layer.visible, title: `Show or hide (${index + 1})` });
    shown.setAttribute("aria-label", `Show ${layer.name}`);
    shown.onchange = () => this.actions.show(layer.id, shown.checked);
    const name = make("button", { className: "gd-name", type: "button", title: `${layer.name}: zoom to it` }, layer.name);
    name.onclick = () => this.actions.zoom(layer.id);
    const arrow = (by: -1 | 1) => {
      const button = make("button", { type: "button", className: "gd-arrow" }, by < 0 ? "▲" : "▼");
      button.disabled = by < 0 ? index === 0 : index === count - 1;
      button.setAttribute("aria-label", `Move ${layer.name} ${by < 0 ? "up" : "down"}`);
      button.onclick = () => this.actions.move(layer.id, by);
      return button;
    };
    const opacity = make("input", { type: "range", min: "0", max: "100", step: "5", value: String(Math.round(100 * layer.opacity)) });
    opacity.className = "gd-opacity";
    opacity.title = "Opacity";
    opacity.setAttribute("aria-label", `Opacity of ${layer.name}`);
    opacity.oninput = () => this.actions.fade(layer.id, Number(opacity.value) / 100);
    const row = make("div", { className: "gd-row" }, make("div", { className: "gd-head" }, shown, name, arrow(-1), arrow(1)), opacity);
    row.dataset.layer = layer.id;
    if (layer.threshold) row.append(this.threshold(layer, layer.threshold.low, layer.threshold.high, layer.threshold.value));
    if (layer.legend) row.append(this.legend(layer.legend));
    return row;
  }

  private threshold(layer: Layer, low: number, high: number, value: number): HTMLElement {
    const said = make("output", {}, short(value));
    const slider = make("input", { type: "range", min: String(low), max: String(high), step: String((high - low) / 500) });
    slider.value = String(value);
    slider.className = "gd-threshold";
    slider.setAttribute("aria-label", `Threshold of ${layer.name}`);
    slider.oninput = () => {
      said.value = short(Number(slider.value));
      this.actions.cut(layer.id, Number(slider.value), false);
    };
    slider.onchange = () => this.actions.cut(layer.id, Number(slider.value), true);
    return make("label", { className: "gd-cut" }, "Threshold ", said, slider);
  }

  private legend(legend: NonNullable<Layer["legend"]>): HTMLElement {
    if (legend.kind === "ramp") {
      const bar = make("div", { className: "gd-ramp" });
      bar.style.background = `linear-gradient(to right, ${legend.entries.map((entry) => entry.color).join(", ")})`;
      return make("div", { className: "gd-legend" }, bar, make("div", { className: "gd-ends" }, make("span", {}, legend.low ?? ""), make("span", {}, legend.high ?? "")));
    }
    const entries = legend.entries.map((entry) => {
      const swatch = make("i");
      swatch.style.background = entry.color;
      return make("li", { title: entry.name }, swatch, entry.name);
    });
    return make("ul", { className: "gd-legend" }, ...entries);
  }

  private comparison(layers: Layer[]): HTMLElement[] {
    const choose = (which: 0 | 1) => {
      const select = make("select", {}, ...layers.map((layer) => make("option", { value: layer.id }, layer.name)));
      select.setAttribute("aria-label", which === 0 ? "Layer on the left" : "Layer on the right");
      select.value = this.sides?.[which] ?? layers[Math.min(which, layers.length - 1)].id;
      return select;
    };
    const [left, right] = [choose(0), choose(1)];
    const on = make("input", { type: "checkbox", checked: this.sides !== null });
    on.className = "gd-swipe-on";
    const say = () => this.actions.compare(on.checked && left.value !== right.value ? [left.value, right.value] : null);
    on.onchange = left.onchange = right.onchange = say;
    const sides = make("div", { className: "gd-sides" }, left, right);
    sides.hidden = this.sides === null;
    return [make("label", { title: "Compare two layers with a divider (S)" }, on, " Swipe"), sides];
  }
}
