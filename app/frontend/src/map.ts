// One map, alive for as long as the page: each run of the Python script only changes what differs.
import L from "./leaflet.ts";
import { Drawing } from "./draw.ts";
import { arrange, coordinates, isDark, step } from "./format.ts";
import { Graticule } from "./graticule.ts";
import { inspect } from "./inspect.ts";
import { Panel } from "./panel.ts";
import { ScoreLayer } from "./score.ts";
import { Swipe } from "./swipe.ts";
import { VectorLayers } from "./vectors.ts";
import type { Arrangement, Data, Layer, Tell } from "./types.ts";

interface Shown {
  url: string;
  layer: L.GridLayer;
  pane: HTMLElement;
}

const TOLD_AFTER_MS = 400; // a moved slider tells Python once, when it has come to rest
const HELP = "1–9 layer or class · [ ] opacity · S swipe · F fit · U undo · D draw · Esc stop";

export class MapView {
  readonly root: HTMLElement;
  private readonly map: L.Map;
  private readonly panel: Panel;
  private readonly swipe: Swipe;
  private readonly drawing: Drawing;
  private readonly vectors: VectorLayers;
  private readonly shown = new Map<string, Shown>();
  private readonly chips = L.DomUtil.create("div", "gd-chips");
  private readonly pin = L.circleMarker([0, 0], { radius: 6, weight: 3, color: "#fff", fillColor: "#111", fillOpacity: 1, interactive: false, pmIgnore: true });
  private layers: Layer[] = [];
  private sides: [string, string] | null = null;
  private asked: string | null = null;
  private fitted: string | null = null;
  private tell: Tell = () => undefined;
  private pick = false;
  private timer = 0;

  constructor() {
    this.root = L.DomUtil.create("div", "gd-root");
    const canvas = L.DomUtil.create("div", "gd-map", this.root);
    canvas.setAttribute("aria-label", "Map");
    this.map = L.map(canvas, { center: [20, 0], zoom: 2, maxZoom: 24, zoomSnap: 1, worldCopyJump: true, attributionControl: false, preferCanvas: false });
    this.map.createPane("graticule").style.zIndex = "150";
    this.map.createPane("vectors").style.zIndex = "450";
    new Graticule().addTo(this.map);
    L.control.scale({ imperial: false }).addTo(this.map);
    this.panel = new Panel({
      show: (id, visible) => this.change(id, { visible }),
      fade: (id, opacity) => this.change(id, { opacity }),
      move: (id, by) => this.reorder(id, by),
      cut: (id, value, settled) => this.cut(id, value, settled),
      zoom: (id) => this.zoom(id),
      compare: (sides) => this.compare(sides),
    });
    this.corner("topright", this.panel.element);
    this.corner("bottomright", this.position());
    this.root.append(this.chips);
    this.swipe = new Swipe(this.map);
    this.drawing = new Drawing(this.map, (name, value) => this.tell(name, value));
    this.vectors = new VectorLayers(this.map);
    this.map.on("click", (event: L.LeafletMouseEvent) => this.clicked(event));
    // A rerun of the page may take the focus away; keys that nobody else has asked for are the map's then.
    document.addEventListener("keydown", (event) => {
      const idle = document.activeElement === null || document.activeElement === document.body;
      if (this.root.isConnected && (idle || event.composedPath().includes(this.root))) this.key(event);
    });
    new ResizeObserver(() => this.map.invalidateSize({ pan: false })).observe(canvas);
    const phone = matchMedia("(max-width: 640px)");
    const fold = () => (this.panel.element.open = !phone.matches);
    phone.addEventListener("change", fold);
    if (phone.matches) fold();
  }

  /** Take what Python wants shown; what the analyst arranged by hand stays as it is. */
  update(data: Data, tell: Tell): void {
    this.tell = tell;
    this.pick = data.pick;
    if (!data.pick) this.pin.remove();
    else this.map.closePopup();
    this.root.style.setProperty("--gd-height", `${data.height}px`);
    this.root.classList.toggle("gd-dark", isDark(getComputedStyle(this.root).getPropertyValue("--st-background-color")));
    this.layers = arrange(data.layers, this.arrangement()).map((layer) => this.keepThreshold(layer));
    const asked = JSON.stringify(data.swipe);
    if (asked !== this.asked) {
      this.asked = asked;
      this.sides = data.swipe;
    }
    if (this.sides && !this.sides.every((id) => this.layers.some((layer) => layer.id === id))) this.sides = null;
    this.sync();
    this.vectors.update(data.vectors, tell);
    this.drawing.update(data.draw, tell);
    this.classes(data);
    if (data.fit && data.fit.token !== this.fitted) {
      this.fitted = data.fit.token;
      this.map.invalidateSize({ pan: false });
      this.map.fitBounds(data.fit.bounds, { animate: false });
    }
  }

  private arrangement(): Arrangement[] {
    return this.layers.map(({ id, visible, opacity }) => ({ id, visible, opacity }));
  }

  /** A threshold moved by hand outlives a run of the script that did not move it itself. */
  private keepThreshold(layer: Layer): Layer {
    const before = this.layers.find((one) => one.id === layer.id)?.threshold;
    if (!before || !layer.threshold || !this.timer) return layer;
    return { ...layer, threshold: { ...layer.threshold, value: before.value } };
  }

  private sync(): void {
    for (const [id, shown] of this.shown)
      if (!this.layers.some((layer) => layer.id === id && layer.url === shown.url)) {
        // A layer whose pixels changed stays until its successor has drawn, so that the map does not blink.
        const successor = this.layers.find((layer) => layer.id === id);
        this.shown.delete(id);
        if (successor) window.setTimeout(() => this.drop(shown), 1500);
        else this.drop(shown);
      }
    this.layers.forEach((layer, index) => {
      const shown = this.shown.get(layer.id) ?? this.add(layer);
      shown.pane.style.zIndex = String(200 + 2 * (this.layers.length - index));
      shown.pane.style.display = layer.visible ? "" : "none";
      if (layer.visible && !this.map.hasLayer(shown.layer)) shown.layer.addTo(this.map);
      if ((shown.layer.options as L.GridLayerOptions).opacity !== layer.opacity) shown.layer.setOpacity(layer.opacity);
      if (shown.layer instanceof ScoreLayer && layer.threshold) shown.layer.cut(layer.threshold);
    });
    this.divide();
    this.panel.draw(this.layers, this.sides);
  }

  private add(layer: Layer): Shown {
    const pane = this.map.createPane(`layer-${layer.id}-${layer.url}`);
    const options = { pane: `layer-${layer.id}-${layer.url}`, bounds: L.latLngBounds(layer.bounds), opacity: layer.opacity, maxNativeZoom: layer.maxNativeZoom, maxZoom: 24, updateWhenZooming: false, keepBuffer: 1 };
    const made = layer.threshold ? new ScoreLayer(layer.url, layer.threshold, options) : L.tileLayer(layer.url, options);
    const shown = { url: layer.url, layer: made, pane };
    this.shown.set(layer.id, shown);
    return shown;
  }

  private drop({ layer, pane }: Shown): void {
    layer.remove();
    pane.remove();
  }

  private change(id: string, to: Partial<Layer>): void {
    this.layers = this.layers.map((layer) => (layer.id === id ? { ...layer, ...to } : layer));
    const [layer, shown] = [this.layers.find((one) => one.id === id), this.shown.get(id)];
    if (!layer || !shown) return;
    if (to.opacity !== undefined) shown.layer.setOpacity(layer.opacity);
    if (to.visible !== undefined) this.sync();
    this.settle(() => this.tell("arranged", this.arrangement()));
  }

  private reorder(id: string, by: -1 | 1): void {
    this.layers = step(this.layers, this.layers.findIndex((layer) => layer.id === id), by);
    this.sync();
    this.settle(() => this.tell("arranged", this.arrangement()));
  }

  private cut(id: string, value: number, settled: boolean): void {
    this.layers = this.layers.map((layer) => (layer.id === id && layer.threshold ? { ...layer, threshold: { ...layer.threshold, value } } : layer));
    const [layer, shown] = [this.layers.find((one) => one.id === id), this.shown.get(id)];
    if (layer?.threshold && shown?.layer instanceof ScoreLayer) shown.layer.cut(layer.threshold);
    if (settled) this.settle(() => this.tell("threshold", { layer: id, value }));
  }

  private settle(say: () => void): void {
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      say();
    }, TOLD_AFTER_MS);
  }

  private compare(sides: [string, string] | null): void {
    this.sides = sides;
    if (sides) this.layers = this.layers.map((layer) => (sides.includes(layer.id) ? { ...layer, visible: true } : layer));
    this.sync();
  }

  private divide(): void {
    const panes = this.sides?.map((id) => this.shown.get(id)?.pane);
    if (panes?.[0] && panes[1]) this.swipe.compare(panes[0], panes[1]);
    else this.swipe.stop();
  }

  private zoom(id: string): void {
    const layer = this.layers.find((one) => one.id === id);
    if (layer) this.map.fitBounds(layer.bounds);
  }

  private clicked(event: L.LeafletMouseEvent): void {
    if (this.map.pm.globalDrawModeEnabled() || this.map.pm.globalEditModeEnabled() || this.map.pm.globalRemovalModeEnabled()) return;
    // Where a click asks something of the page, a box of values would stand before the answer.
    if (!this.pick) return inspect(this.map, event.latlng.wrap(), this.layers);
    this.pin.setLatLng(event.latlng).addTo(this.map);
    this.tell("clicked", { lng: event.latlng.wrap().lng, lat: event.latlng.lat, at: Date.now() });
  }

  private classes({ draw }: Data): void {
    this.chips.hidden = !draw || draw.classes.length === 0;
    const chips = (draw?.classes ?? []).map(({ id, name, color }, index) => {
      const chip = L.DomUtil.create("button", "gd-chip");
      chip.type = "button";
      chip.title = `Draw examples of ${name} (${index + 1})`;
      chip.setAttribute("aria-pressed", String(id === this.drawing.current));
      const swatch = L.DomUtil.create("i", "", chip);
      swatch.style.background = color;
      chip.append(name);
      chip.onclick = () => {
        this.drawing.choose(id);
        for (const other of this.chips.children) other.setAttribute("aria-pressed", String(other === chip));
      };
      return chip;
    });
    const undo = L.DomUtil.create("button", "gd-chip gd-undo");
    undo.type = "button";
    undo.title = "Take back the last change of the examples (U)";
    undo.textContent = "↶ Undo";
    undo.onclick = () => this.drawing.undo();
    this.chips.replaceChildren(...chips, undo);
  }

  private corner(position: L.ControlPosition, element: HTMLElement): void {
    const control = new L.Control({ position });
    control.onAdd = () => {
      L.DomEvent.disableClickPropagation(element);
      L.DomEvent.disableScrollPropagation(element);
      return element;
    };
    control.addTo(this.map);
  }

  private position(): HTMLElement {
    const box = L.DomUtil.create("div", "gd-position");
    box.title = HELP;
    box.textContent = "⌨";
    this.map.on("mousemove", (event: L.LeafletMouseEvent) => {
      box.textContent = `${coordinates(event.latlng.lat, event.latlng.lng)}  z${this.map.getZoom()}`;
    });
    return box;
  }

  private key(event: KeyboardEvent): void {
    const target = event.composedPath()[0];
    const typing = target instanceof HTMLElement && target.matches("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
    const digit = Number(event.key);
    const chip = this.chips.hidden ? null : this.chips.children[digit - 1];
    const top = this.layers[0];
    const fade = (by: number) => top && this.change(top.id, { opacity: Math.min(1, Math.max(0, top.opacity + by)) });
    const actions: Record<string, () => unknown> = {
      "[": () => fade(-0.1),
      "]": () => fade(0.1),
      s: () => this.layers.length > 1 && this.compare(this.sides ? null : [this.layers[0].id, this.layers[1].id]),
      f: () => this.layers.length > 0 && this.map.fitBounds(L.latLngBounds(this.layers.flatMap((layer) => layer.bounds))),
      u: () => this.drawing.undo(),
      d: () => !this.chips.hidden && this.drawing.choose(this.drawing.current),
      Escape: () => this.map.pm.disableDraw(),
    };
    if (digit >= 1 && chip && !chip.classList.contains("gd-undo")) (chip as HTMLElement).click();
    else if (digit >= 1 && this.layers[digit - 1]) {
      const { id, visible } = this.layers[digit - 1];
      this.change(id, { visible: !visible });
    } else if (actions[event.key]) actions[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
